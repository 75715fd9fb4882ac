"""The packed form: every file comes back bit for bit, and no bytes whatever crash, hang or bloat its reader."""

import hashlib
import json
import lzma
import os
import random
import resource
import signal
import zlib

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

import zoo
from conftest import ROOT
from zoo.cli import main
from zoo.weights.convert import safetensors_bytes
from zoo.weights.importers import read_checkpoint
from zoo.weights.load import read_verified
from zoo.weights.manifest import weights
from zoo.weights.packed import EXPANSION, FORMAT, PACKED, is_packed, pack, unpack

CASES = int(os.environ.get("ZOO_FUZZ_CASES", "100000"))
HEAD = {"format": FORMAT}
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
DTYPES = [*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def sparse_state(density: float, dtype: torch.dtype = torch.float16, side: int = 64) -> dict:
    """A masked weight as the sparse family stores it, and a bank that two names hold."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(side, side, 3, 3, generator=generator) < density
    weight = torch.randn(side, side, 3, 3, generator=generator).to(dtype).masked_fill(~mask, 0)
    weight[mask.nonzero(as_tuple=True)[0][:1], 0, 0, 0] = 0
    bank = torch.randn(500, generator=generator)
    names = ("conv.parametrizations.weight.original", "conv.parametrizations.weight.0.mask", "bank", "again")
    return dict(zip(names, (weight, mask, bank, bank.clone()), strict=True))


def plan_of(content: bytes) -> dict:
    return json.loads(zlib.decompress(load(content)["plan"].numpy().tobytes()))


def deflated(content: object) -> torch.Tensor:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return torch.frombuffer(bytearray(zlib.compress(text)), dtype=torch.uint8)


def entropy_of_values(state: dict) -> int:
    """Bytes that the values of a state dict must take: their exponents by their entropy, everything else as it is."""
    total = 0
    for tensor in state.values():
        if tensor.dtype not in (torch.float16, torch.float32):
            continue
        items = tensor[tensor != 0].view(torch.int16 if tensor.dtype == torch.float16 else torch.int32)
        exponents = (items >> (10 if tensor.dtype == torch.float16 else 23)) & (
            31 if items.dtype == torch.int16 else 255
        )
        share = torch.bincount(exponents.long()).double() / max(1, len(items))
        bits = torch.special.entr(share).sum() / 0.693147 + (11 if items.dtype == torch.int16 else 24)
        total += int(bits * len(items) / 8)
    return total


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_every_file_comes_back_bit_for_bit(data):
    """Any types, shapes, densities, repetitions, metadata; also NaN, infinities, -0.0."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1 << 30)))
    state = {}
    for i in range(data.draw(st.integers(0, 5))):
        dtype = data.draw(st.sampled_from(DTYPES))
        shape = data.draw(st.lists(st.integers(0, 24), max_size=3))
        values = torch.randint(-9, 9, shape, generator=generator).to(dtype)
        if dtype in FLOATS and values.numel():
            values.view(-1)[:3] = torch.tensor([float("nan"), float("-inf"), -0.0])[: values.numel()].to(dtype)
        keep = torch.rand(shape, generator=generator) < data.draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]))
        values = torch.where(keep, values, torch.zeros((), dtype=dtype))
        state[f"{'ab'[i % 2]}.{i}"] = values
        if data.draw(st.booleans()):
            state[f"again.{i}"] = values.clone()
    plain = safetensors_bytes(state, data.draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)))
    packed = pack(plain)
    assert is_packed(packed)
    assert not is_packed(plain)
    assert unpack(packed) == plain


def test_a_sparse_weight_occupies_what_it_is():
    """Values within 2 % of their entropy, positions within 3 % of theirs, the mask's for nothing, the bank once."""
    density = 0.1
    state = sparse_state(density, side=160)
    packed = pack(save(state))
    stored = {name: tensor.numel() for name, tensor in load(packed).items()}
    on = int(state["conv.parametrizations.weight.0.mask"].sum())
    entropy = torch.special.entr(torch.tensor([on / (160 * 160 * 9), 1 - on / (160 * 160 * 9)])).sum() / 0.693147
    assert stored["positions"] * 8 < 1.03 * float(entropy) * 160 * 160 * 9
    forms = sorted((entry["form"], entry["bytes"]) for entry in plan_of(packed)["tensors"])
    assert [form for form, _ in forms] == ["ones", "plain", "same", "sparse"]
    once = {name: tensor for name, tensor in state.items() if name != "again"}
    assert stored["top"] + stored["rest"] < 1.02 * entropy_of_values(once)


STAGED = [name for name, entry in weights().items() if "packed" in entry]


@pytest.mark.parametrize("name", STAGED)
def test_a_staged_sparse_weight_is_a_quarter_smaller_than_what_xz_makes_of_it(name):
    """``xz -9`` of the plain file; the packed one is at most three quarters of that, and a tenth of the plain one."""
    plain = (ROOT / "hub" / name / "model.safetensors").read_bytes()
    packed = (ROOT / "hub" / name / PACKED).read_bytes()
    assert len(packed) <= 0.75 * len(lzma.compress(plain, preset=9))
    assert len(packed) < len(plain) / 10
    assert weights()[name]["packed"] == {
        "path": PACKED,
        "sha256": hashlib.sha256(packed).hexdigest(),
        "size": len(packed),
    }
    assert unpack(packed) == plain == unpack(pack(plain))


def test_every_sparse_weight_of_ours_has_a_packed_form():
    assert [
        n for n, e in weights().items() if e["origin"] == "zoo" and e["params"]["nonzero"] < e["size"] / 20
    ] == STAGED


@pytest.mark.parametrize(("density", "code"), [(0.001, "rice"), (0.1, "rice"), (0.5, "bits")])
def test_positions_are_coded_the_shorter_way(density, code):
    packed = pack(save(sparse_state(density)))
    assert {entry["code"] for entry in plan_of(packed)["positions"]} == {code}
    assert unpack(packed) == save(sparse_state(density))


def test_dense_and_nearly_empty_files():
    dense = save({"a": torch.randn(100_000)})
    assert len(pack(dense)) < 0.9 * len(dense)
    empty = save({"a": torch.zeros(1 << 20)})  # would expand more than the reader allows, so it stays plain
    assert len(pack(empty)) > len(empty) / EXPANSION
    assert unpack(pack(empty)) == empty
    with pytest.raises(zoo.WeightError, match="not a safetensors file"):
        pack(b"nonsense")


def test_a_packed_file_loads_under_the_plain_files_sha256(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    plain = save(sparse_state(0.1))
    (tmp_path / "model.safetensors").write_bytes(plain)
    target = tmp_path / "model.packed.safetensors"
    assert main(["pack", str(tmp_path / "model.safetensors"), "-o", str(target)]) == 0
    loaded = read_verified(target, hashlib.sha256(plain).hexdigest())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in sparse_state(0.1).items())
    with pytest.raises(zoo.HashMismatchError):
        read_verified(target, hashlib.sha256(target.read_bytes()).hexdigest())
    assert main(["pack", "--unpack", str(target), "-o", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again").read_bytes() == plain
    assert main(["pack", str(target), "-o", str(tmp_path / "x")]) == 1
    assert "--unpack" in capsys.readouterr().err


# ---- the reader, against whoever controls the bytes ----


def repacked(change) -> bytes:
    """A packed file whose plan, or byte strings, have been changed by hand."""
    content = pack(save(sparse_state(0.1)))
    plan, pieces = plan_of(content), load(content)
    change(plan, pieces)
    return safetensors_bytes({"plan": deflated(plan), **{k: p for k, p in pieces.items() if k != "plan"}}, HEAD)


LIES = {
    "huge tensor": lambda plan, pieces: plan["tensors"][0].update(bytes=1 << 62),
    "many repetitions": lambda plan, pieces: plan["tensors"].extend(
        [{"form": "same", "bytes": 73728, "as": [e["bytes"] for e in plan["tensors"]].index(73728)}] * 10_000
    ),
    "huge set of positions": lambda plan, pieces: plan["positions"][0].update(entries=1 << 62),
    "huge count": lambda plan, pieces: plan["positions"][0].update(count=1 << 62),
    "too many lower bits": lambda plan, pieces: plan["positions"][0].update(low=63),
    "negative size": lambda plan, pieces: plan["tensors"][0].update(bytes=-1),
    "size a truth": lambda plan, pieces: plan["tensors"][0].update(bytes=True),
    "size a fraction": lambda plan, pieces: plan["tensors"][0].update(bytes=1.5),
    "repeats itself": lambda plan, pieces: plan["tensors"].__setitem__(0, {"form": "same", "bytes": 8, "as": 0}),
    "repeats a later one": lambda plan, pieces: plan["tensors"][0].update({"form": "same", "as": 3}),
    "positions that do not exist": lambda plan, pieces: [e.update(at=99) for e in plan["tensors"] if "at" in e],
    "unknown field": lambda plan, pieces: plan["tensors"][0].update(extra=0),
    "unknown form": lambda plan, pieces: plan["tensors"][0].update(form="pickle"),
    "width zero": lambda plan, pieces: [entry.update(width=0) for entry in plan["tensors"] if "width" in entry],
    "no header": lambda plan, pieces: pieces.pop("header"),
    "a byte string more": lambda plan, pieces: pieces.update(more=torch.zeros(8, dtype=torch.uint8)),
    "values missing": lambda plan, pieces: pieces.update(rest=pieces["rest"][:-1].clone()),
    "values too many": lambda plan, pieces: pieces.update(rest=torch.cat([pieces["rest"], pieces["rest"][:1]])),
    "exponents missing": lambda plan, pieces: pieces.update(top=deflated(b"abc")),
    "exponents without end": lambda plan, pieces: pieces.update(top=deflated(bytes(1 << 28))),
    "header without end": lambda plan, pieces: pieces.update(header=deflated(bytes(1 << 28))),
    "deflated bytes cut off": lambda plan, pieces: pieces.update(top=pieces["top"][:-9].clone()),
    "bytes behind the deflated ones": lambda plan, pieces: pieces.update(
        top=torch.cat([pieces["top"], pieces["top"][:1]])
    ),
    "positions beyond the end": lambda plan, pieces: [
        pieces.update(positions=torch.cat([torch.zeros(50_000, dtype=torch.uint8), pieces["positions"]])),
        plan["positions"][0].update(low=0, high=plan["positions"][0]["high"] + 50_000),
    ],
    "no plan": lambda plan, pieces: plan.clear(),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_plan_is_refused_before_anything_is_allocated(lie):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(zoo.WeightError, match="not a packed weight file") as caught:
        unpack(repacked(LIES[lie]), "x")
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


NUMBERS = [
    -1,
    0,
    1,
    2,
    7,
    8,
    63,
    64,
    255,
    1 << 16,
    1 << 31,
    1 << 40,
    1 << 62,
    1 << 64,
    1 << 70,
    1.5,
    True,
    None,
    "1",
    [],
]
BASES = [pack(save(sparse_state(density, side=8))) for density in (0.02, 0.1, 0.5)]


def mutated(seed: int) -> bytes:
    """One of the base files, changed at random: bytes, length, header, plan, or byte strings."""
    rng = random.Random(seed)
    content = bytearray(rng.choice(BASES))
    length = int.from_bytes(content[:8], "little")
    way = rng.randrange(5)
    if way == 0:  # any bytes
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif way == 1:  # cut, or longer
        content = content[: rng.randrange(len(content))] + bytes(rng.randrange(0, 40) if rng.random() < 0.3 else 0)
    elif way == 2:  # the header only
        for _ in range(rng.choice((1, 2, 4))):
            content[rng.randrange(8, 8 + length)] = rng.choice(b'0123456789{}[]",:-aeptx')
    else:
        plan, pieces = plan_of(bytes(content)), load(bytes(content))
        if way == 3:  # the plan: numbers, forms, order
            for _ in range(rng.choice((1, 1, 2, 3))):
                entry = rng.choice(plan["tensors"] + plan["positions"])
                field = rng.choice(list(entry))
                near = entry[field] + rng.choice((-1, 1)) if isinstance(entry[field], int) else "same"
                entry[field] = rng.choice([*NUMBERS, near, "plain", "same", "sparse", "ones", "bits", "rice"])
        else:  # the byte strings
            name = rng.choice(list(pieces))
            piece = pieces[name].clone()
            piece[rng.randrange(len(piece))] ^= 1 << rng.randrange(8)
            pieces[name] = rng.choice([piece, piece[:-1], torch.cat([piece, piece]), piece.view(torch.int8)])
        return safetensors_bytes({"plan": deflated(plan), **{k: p for k, p in pieces.items() if k != "plan"}}, HEAD)
    return bytes(content)


def survives(seed: int, tally: dict) -> None:
    content = mutated(seed)
    signal.alarm(60)  # a hang ends the process
    try:
        size = len(unpack(content, "x"))
        assert size <= EXPANSION * len(content)
        tally["read"] = tally.get("read", 0) + 1
    except zoo.WeightError as error:
        assert "\n" not in str(error)
        tally["refused"] = tally.get("refused", 0) + 1
    finally:
        signal.alarm(0)


def fuzz(cases: int) -> dict:
    """Hypothesis draws the seeds; returns how many files were read and refused, and the memory gained in MiB."""
    tally: dict = {}

    @settings(
        max_examples=cases, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=HealthCheck
    )
    @given(seed=st.integers(0, (1 << 64) - 1))
    def run(seed: int) -> None:
        survives(seed, tally)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    tally["MiB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    return tally


def test_fuzz_a_little():
    tally = fuzz(1500)
    assert tally["read"] > 10
    assert tally["refused"] > 500
    assert tally["MiB"] < 200


@pytest.mark.slow
def test_fuzz():
    """``python -m pytest tests/test_packed.py -m slow -s``; ZOO_FUZZ_CASES says how many."""
    tally = fuzz(CASES)
    print(f"{tally['read'] + tally['refused']} cases: {tally}")
    assert tally["read"] + tally["refused"] >= CASES
    assert tally["MiB"] < 200


def test_a_packed_file_is_a_checkpoint_too():
    path = ROOT / "hub/sparse_wrn_16_2.zoo_dsr_s90_c10"
    plain, packed = (read_checkpoint(path / name) for name in ("model.safetensors", PACKED))
    assert plain.keys() == packed.keys() and all(torch.equal(plain[key], packed[key]) for key in plain)


def test_sizes_are_compared_before_anything_is_made(tmp_path):
    """A few MB that claim gigabytes, position sets nobody uses, and a size that the manifest does not have."""
    plain = save(sparse_state(0.1))
    packed = pack(plain)
    assert unpack(packed, size=len(plain)) == plain
    with pytest.raises(zoo.WeightError, match="and the weight has"):
        unpack(packed, size=len(plain) + 1)
    bits = bytes(4 << 20)
    sets = [{"code": "bits", "entries": 8 * len(bits)}]
    tensors = [{"form": "sparse", "bytes": 8 * len(bits) * 4, "width": 4, "at": 0}] * 8
    header = json.dumps({f"a{i}": {"dtype": "F32", "shape": [8 * len(bits)]} for i in range(8)}).encode()
    huge = packed_of(header, {"tensors": tensors, "positions": sets}, bits)
    with pytest.raises(zoo.WeightError, match="it would become 1073"):
        unpack(huge)


def packed_of(header: bytes, plan: dict, positions: bytes) -> bytes:
    pieces = {"header": zlib.compress(header), "plan": zlib.compress(json.dumps(plan).encode()), "positions": positions}
    pieces |= {"top": zlib.compress(b""), "rest": b""}
    tensors = {name: torch.frombuffer(bytearray(piece), dtype=torch.uint8) for name, piece in pieces.items() if piece}
    return safetensors_bytes({"rest": torch.empty(0, dtype=torch.uint8)} | tensors, HEAD)
