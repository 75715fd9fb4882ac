"""``zoo import``: the papers' containers, and files that try to do harm."""

import argparse
import collections
import hashlib
import json
import os
import pickle
import re
import sys
import types
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import zoo
from golden import load_golden
from protocol import close
from zoo.checkpoints import load_checkpoint, read_network
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.data import get_dataset
from zoo.weights.convert import safetensors_bytes
from zoo.weights.importers import open_checkpoint, read_checkpoint
from zoo.weights.manifest import source, weights
from zoo.weights.verify import sha256_of

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request, tmp_path):
    """Write a checkpoint in both of torch's containers."""

    def write(content) -> Path:
        path = tmp_path / "checkpoint.pth.tar"
        torch.save(content, path, _use_new_zipfile_serialization=request.param)
        return path

    return write


@pytest.fixture
def stray():
    """An object of a class that exists when the file is written, and not when it is read."""
    module = types.ModuleType("training_script_utils")

    class Recorder:
        def __init__(self):
            self.history = [1.0, 2.0]
            self.tensor = torch.zeros(3)

    Recorder.__module__, Recorder.__qualname__ = "training_script_utils", "Recorder"
    module.Recorder = Recorder
    sys.modules["training_script_utils"] = module
    yield Recorder()
    sys.modules.pop("training_script_utils", None)


STATE = {"a.weight": torch.randn(3, 2), "a.bias": torch.randn(3)}


PREFIXES = ["", "module.", "module.1.", "1.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.model.", "model.1."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("key", ["state_dict", "net", "model", "network", None])
def test_containers_and_prefixes(save, prefix, key):
    inner = collections.OrderedDict((prefix + name, tensor) for name, tensor in STATE.items())
    path = save(inner if key is None else {"epoch": 3, "arch": "x", key: inner, "best_prec1": 70.1})
    read = read_checkpoint(path)
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[name], STATE[name]) for name in STATE)


def test_half_precision_becomes_single(save):
    read = read_checkpoint(save({"state_dict": {name: tensor.half() for name, tensor in STATE.items()}}))
    assert {tensor.dtype for tensor in read.values()} == {torch.float32}


def test_parameters_and_statistics_are_joined(save):
    read = read_checkpoint(save({"params": {"conv0": STATE["a.weight"]}, "stats": {"bn.running_mean": torch.ones(2)}}))
    assert read.keys() == {"conv0", "bn.running_mean"}


def test_averaged_weights_are_taken_and_said_so(save):
    """As timm's loader does; a counter of torch's AveragedModel is no weight."""
    averaged = {f"module.{name}": tensor + 1 for name, tensor in STATE.items()} | {"n_averaged": torch.tensor(3)}
    for key in ("state_dict_ema", "model_ema"):
        path = save({"model": STATE, "epoch": 2, key: averaged})
        found = open_checkpoint(path)
        assert (found.taken, found.others) == (key, ("model",))
        read = read_checkpoint(path)
        assert read.keys() == STATE.keys()
        assert all(torch.equal(read[name], STATE[name] + 1) for name in STATE)
    assert read_checkpoint(save({"state_dict": STATE, "state_dict_ema": None})).keys() == STATE.keys()


def test_parts_that_were_wrapped_lose_the_wrapper(save):
    state = {"_orig_mod.stem.conv.weight": torch.ones(1), "stages.0._orig_mod.bn.weight": torch.ones(2)}
    state |= {"head.module.fc.weight": torch.ones(3)}
    assert read_checkpoint(save(state)).keys() == {"stem.conv.weight", "stages.0.bn.weight", "head.fc.weight"}


def test_several_state_dicts_are_not_chosen_from(save):
    with pytest.raises(zoo.WeightError, match=r"several state dicts \(generator, critic\)"):
        read_checkpoint(save({"generator": STATE, "critic": STATE, "epoch": 1}))


def test_a_whole_network_is_refused_in_one_line(save):
    for content in (torch.nn.Linear(2, 3), {"model": torch.nn.Linear(2, 3), "epoch": 1}):
        with pytest.raises(zoo.WeightError, match=r"holds a whole .*torch\.save\(model\.state_dict\(\)") as caught:
            read_checkpoint(save(content))
        assert "\n" not in str(caught.value)


def test_releases_are_converted_to_the_manifests_bytes(released, tmp_path):
    """The authors' pickles, as far as they can be made again: their tensors under ``net`` and ``module.``."""
    files = {sha256_of(path): path for path in released.glob("*.safetensors")}
    theirs = {name: source(entry, "release") for name, entry in weights().items() if source(entry, "release")}
    assert len(theirs) == 18
    for name, release in theirs.items():
        state = load_file(files[weights()[name]["sha256"]])
        content = {"net": {f"module.{key}": tensor for key, tensor in state.items()}, "acc": 90.1, "epoch": 3}
        torch.save(content, tmp_path / "x.t7")
        found = safetensors_bytes(read_checkpoint(tmp_path / "x.t7"), release["metadata"])
        assert hashlib.sha256(found).hexdigest() == weights()[name]["sha256"], name


def test_stray_objects_are_left_behind_without_their_class(save, stray):
    path = save({"state_dict": STATE, "recorder": stray, "optimizer": {"scaler": stray}})
    del sys.modules["training_script_utils"]
    assert read_checkpoint(path).keys() == STATE.keys()
    assert "training_script_utils" not in sys.modules


class Harm:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Evil:
    """Calls eval when it is unpickled."""

    def __reduce__(self):
        return eval, ("__import__('os').mkdir('/tmp/zoo-import-evil')",)


def test_code_in_a_checkpoint_is_not_run(save, tmp_path):
    with pytest.raises(zoo.WeightError, match="refused"):
        read_checkpoint(save({"state_dict": STATE, "recorder": Harm(tmp_path / "executed")}))
    path = save({"state_dict": STATE, "recorder": Evil()})
    try:
        read_checkpoint(path)
    except zoo.WeightError as error:
        assert "\n" not in str(error)
    assert not (tmp_path / "executed").exists()
    assert not Path("/tmp/zoo-import-evil").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"<html>sign in</html>",
        b"\x80\x02.",
        b"cos\nsystem\n(S'true'\ntR.",
        pickle.dumps([1, 2]),
        pickle.dumps({"state_dict": {}}),
        pickle.dumps({"state_dict": {"a": 1}}),
    ],
)
def test_damaged_files_are_one_line(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(zoo.WeightError, match=r"x\.pth") as caught:
        read_checkpoint(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "missing").exists()
    with pytest.raises(zoo.WeightError, match="No such file"):
        read_checkpoint(tmp_path / "missing")


def huge(*shape, **kwargs) -> torch.Tensor:
    """A tensor of this shape in four bytes."""
    return torch.zeros(1).expand(*shape) if not kwargs else torch.zeros(1, **kwargs).expand(*shape)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"a.weight": huge(1 << 40)}, "claim"),
        ({f"a{i}": huge(1 << 20) for i in range(100)}, "claim"),
        ({"a.weight": torch.empty(3, device="meta")}, "not an ordinary dense tensor"),
        ({"a.weight": torch.eye(3).to_sparse()}, "not an ordinary dense tensor"),
        ({"a.weight": torch.ones(3, dtype=torch.complex64)}, "not an ordinary dense tensor"),
    ],
    ids=["expanded", "many", "meta", "sparse", "complex"],
)
def test_what_is_no_array_of_its_size_is_refused(save, state, reason):
    with pytest.raises(zoo.WeightError, match=reason):
        read_checkpoint(save({"state_dict": state}))


def test_an_archive_that_unpacks_to_more_than_it_has_is_refused(tmp_path):
    torch.save({"a.weight": torch.zeros(1 << 20)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as old, zipfile.ZipFile(tmp_path / "y.pth", "w") as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record.filename), zipfile.ZIP_DEFLATED)
    with pytest.raises(zoo.WeightError, match="its records claim"):
        read_checkpoint(tmp_path / "y.pth")


# ---- checkpoints of one's own ----

OWN = {
    "lrunet1_100": {},
    "lru_shufflenet_g3_025": {},
    "swrn_16_2_2": {},
    "wrn_16_1": {},
    "symm_wrn_16_1": {"symm_type": "quar"},
    "sparse_wrn_16_1": {},
    "sparse_mlp_300_100": {"reparam": "tied"},
    "pd_b_resnet18_cifar": {"width": 0.125},
    "ge_resnet18_cifar": {"width": 0.125},
}


def network(arch, **kwargs):
    torch.manual_seed(0)
    model = timm.create_model(arch, **kwargs)
    for name, tensor in model.named_buffers():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return model.eval()


def same(a, b) -> bool:
    return a.state_dict().keys() == b.state_dict().keys() and all(
        torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items()
    )


@pytest.mark.parametrize(("arch", "kwargs"), OWN.items(), ids=OWN)
def test_ones_own_checkpoint_of_any_sizes_comes_back(tmp_path, arch, kwargs):
    """Every family, made classifiers and first convolutions among them, in nested wrappers."""
    for (classes, channels), prefix in zip(((7, 2), (1, 5)), ("_orig_mod.module.", "module.model.1."), strict=True):
        model = network(arch, num_classes=classes, in_chans=channels, **kwargs)
        state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
        torch.save({"state_dict": state, "arch": arch, "epoch": 1}, tmp_path / "x.pth.tar")
        read = read_network(tmp_path / "x.pth.tar", arch, kwargs)
        assert read.arguments == {"num_classes": classes, "in_chans": channels, **kwargs}
        assert same(read.model, model)


def test_import_takes_timms_checkpoints_and_says_what_it_took(tmp_path, capsys):
    """With the arguments of timm's train.py, its averaged weights, and objects that are not known here."""
    model, averaged = (network("symm_wrn_16_1", num_classes=10, symm_type="quar") for _ in range(2))
    torch.nn.init.ones_(averaged.head.fc.bias)
    args = argparse.Namespace(model="symm_wrn_16_1", model_kwargs={"symm_type": "quar"}, mean=[0.5] * 3, std=[0.25] * 3)
    content = {"state_dict": model.state_dict(), "state_dict_ema": averaged.state_dict(), "arch": args.model}
    torch.save(
        {**content, "args": args, "optimizer": {"state": {}, "lr": 0.1}, "metric": 3.5}, tmp_path / "last.pth.tar"
    )
    output = tmp_path / "out.safetensors"
    assert main(["import", str(tmp_path / "last.pth.tar"), "--as", "symm_wrn_16_1", "-o", str(output)]) == 0
    printed = capsys.readouterr()
    assert "state_dict_ema" in printed.err
    call = next(line for line in printed.out.splitlines() if line.startswith("timm."))
    assert same(eval(call), averaged)
    for file in (tmp_path / "last.pth.tar", output):  # what the file says of its images is handed on
        read = load_checkpoint(file, "symm_wrn_16_1", get_dataset("cifar10"))
        assert timm.data.resolve_data_config(model=read.model)["mean"] == (0.5, 0.5, 0.5)
        assert "beside it, says" in read.notes[-1]


def test_what_is_assumed_of_the_images_is_said(tmp_path):
    save_file(network("wrn_16_1", num_classes=100).state_dict(), tmp_path / "x.safetensors")
    info = get_dataset("cifar100")
    read = load_checkpoint(tmp_path / "x.safetensors", "wrn_16_1", info)
    assert timm.data.resolve_data_config(model=read.model)["std"] == info.std
    assert "the file does not say how" in read.notes[-1]


def test_a_folder_as_timm_saves_it_says_how_images_are_prepared(tmp_path):
    model = network("symm_wrn_16_1", num_classes=10, symm_type="quar")
    cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "tag": "mine"}
    model.pretrained_cfg.update(cfg)
    timm.models.save_for_hf(model, str(tmp_path), model_args={"symm_type": "quar"}, safe_serialization="both")
    for file in ("model.safetensors", "pytorch_model.bin"):
        read = load_checkpoint(tmp_path / file, "symm_wrn_16_1", get_dataset("cifar10"))
        assert same(read.model, model)
        assert read.model.pretrained_cfg["mean"] == cfg["mean"]
    with pytest.raises(zoo.WeightError, match=r"does not fit wrn_16_1: .*symm_type.*holds a symm_wrn_16_1"):
        read_network(tmp_path / "model.safetensors", "wrn_16_1", {"symm_type": "quar"})
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(zoo.WeightError, match="wrong shapes"):
        read_network(tmp_path / "model.safetensors", "symm_wrn_16_1")


def figures(tmp_path, *words) -> list[float]:
    """What ``zoo validate`` says of the first images: how many are right, and how likely the right classes were."""
    file = tmp_path / "r.json"
    places = ["--dataset", "fashion-mnist", "--data", str(SAMPLE), "--limit", "300", "--results", str(file)]
    assert main(["validate", *words, *places]) == 0
    row = json.loads(file.read_text())[0]
    return [row["correct"], row["nll"]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return figures(tmp_path_factory.mktemp("measured"), "lrunet1_100.zoo_fmnist")


@pytest.mark.parametrize("form", ["pickle", "safetensors", "imported", "theirs"])
def test_any_form_is_measured_as_the_weight_itself(tmp_path, capsys, form, measured):
    """The embedded weight, saved in another form: as many images right as the manifest's file has."""
    model = timm.create_model("lrunet1_100.zoo_fmnist", pretrained=True)
    path = tmp_path / "x.pth"
    if form == "pickle":
        torch.save({"net": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    elif form == "theirs":
        torch.save({model.reference_key(name): tensor for name, tensor in model.state_dict().items()}, path)
    else:
        path = tmp_path / "x.safetensors"
        save_file(model.state_dict(), path)
    if form == "imported":
        words = ["import", str(path), "--as", "lrunet1_100", "-o", str(tmp_path / "y.safetensors")]
        assert main(words) == 0
        path = tmp_path / "y.safetensors"
    assert figures(tmp_path, "lrunet1_100", "--checkpoint", str(path)) == measured
    assert "images are prepared as fashion-mnist's usually are" in capsys.readouterr().err


def test_a_run_of_zoo_train_is_read_with_its_arguments(tmp_path):
    """The file ``checkpoint.pt`` of a run: network, arguments and normalisation of its recipe."""
    model = network("lrunet", num_classes=10, in_chans=1, layer_reuse=3)
    recipe = {"weight": "lrunet.mine_fmnist", "model_args": {"layer_reuse": 3}, "mean": [0.5], "std": [0.5]}
    content = {"model": model.state_dict(), "optimizer": {}, "epoch": 1, "identity": {"recipe": recipe}}
    torch.save(content, tmp_path / "checkpoint.pt")
    read = load_checkpoint(tmp_path / "checkpoint.pt", "lrunet", get_dataset("fashion-mnist"))
    assert same(read.model, model)
    assert read.model.pretrained_cfg["mean"] == (0.5,)
    with pytest.raises(zoo.WeightError, match="holds a lrunet, not a lrunet2_100"):
        read_network(tmp_path / "checkpoint.pt", "lrunet2_100")


@pytest.mark.parametrize(
    ("arch", "change", "message"),
    [
        ("lrunet2_100", {"stem.bn.bias": None}, r"does not fit lrunet2_100: missing keys: stem\.bn\.bias"),
        ("lrunet2_100", {"stem.extra": torch.ones(1)}, r"unexpected keys: stem\.extra"),
        ("lrunet2_100", {"stem.bn.bias": torch.ones(3)}, r"wrong shapes: stem\.bn\.bias \(3,\) instead of \(64,\)"),
        (
            "lrunet2_100",
            {"stem.bn.bias": torch.ones(64, dtype=torch.int8)},
            r"wrong types: stem\.bn\.bias torch\.int8 instead of torch\.float32",
        ),
        (
            "lrunet1_100",
            {},
            "unexpected keys: .* The file says that it holds a lrunet2_100",
        ),
        ("wrn_16_1", {}, "missing keys: .* The file says that it holds a lrunet2_100"),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_keys(tmp_path, capsys, arch, change, message):
    state = network("lrunet2_100").state_dict() | change
    state = {f"module.{name}": tensor for name, tensor in state.items() if tensor is not None}
    torch.save({"state_dict": state, "arch": "lrunet2_100"}, tmp_path / "x.pth")
    assert main(["import", str(tmp_path / "x.pth"), "--as", arch, "-o", str(tmp_path / "y.safetensors")]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "y.safetensors").exists()


def test_a_network_that_another_name_would_take_too_is_not_given_to_it(tmp_path):
    """Same keys and shapes, perhaps another function: the file's own word decides."""
    model = network("wrn_16_1")
    torch.save({"state_dict": model.state_dict(), "arch": "lrunet2_100"}, tmp_path / "x.pth")
    with pytest.raises(zoo.WeightError, match="says that it holds a lrunet2_100"):
        read_network(tmp_path / "x.pth", "wrn_16_1")


def test_masks_of_numbers_are_masks_and_other_numbers_are_not(tmp_path):
    model = network("sparse_wrn_16_1")
    state = {name: tensor.float() for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "x.pth")
    assert same(read_network(tmp_path / "x.pth", "sparse_wrn_16_1").model, model)
    mask = next(name for name in state if name.endswith(".mask"))
    torch.save({**state, mask: state[mask] / 2}, tmp_path / "x.pth")
    with pytest.raises(zoo.WeightError, match=r"wrong types: stages\.0\..*mask"):
        read_network(tmp_path / "x.pth", "sparse_wrn_16_1")


@pytest.mark.parametrize(
    ("file", "arch", "settings"),
    [
        ("sharing/swrn_16_2_bank2", "swrn_16_2_2", []),
        ("symmetry/resnet_bottleneck_16_4_tri", "symm_wrn_bottleneck_16_4", ["--set", "symm_type=tri"]),
        ("sparse/wrn28_2_s90", "sparse_wrn_28_2", []),
        ("lrunet/lrunet8_1x_fmnist", "lrunet8_100", []),
        ("paradise/pd_a_resnet18", "pd_a_resnet18", []),
    ],
)
def test_the_command_converts_a_checkpoint_of_each_paper(tmp_path, capsys, stray, file, arch, settings):
    g = load_golden(GOLDEN / f"{file}.safetensors")
    content = {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in g.state.items()}, "recorder": stray}
    torch.save(content, tmp_path / "model_best.pth.tar")
    del sys.modules["training_script_utils"]
    output = tmp_path / "x.safetensors"
    assert main(["import", str(tmp_path / "model_best.pth.tar"), "--as", arch, *settings, "-o", str(output)]) == 0
    assert "checkpoint_path" in capsys.readouterr().out
    kwargs = {"symm_type": "tri"} if settings else {}
    model = timm.create_model(arch, num_classes=g.logits.shape[1], in_chans=g.input.shape[1], **kwargs).eval()
    model.load_state_dict(load_file(output), strict=True)
    close(model(g.input), g.logits, 1e-4)


def test_a_checkpoint_of_another_network_names_the_keys(tmp_path, capsys):
    torch.save({"state_dict": STATE}, tmp_path / "x.pth")
    assert main(["import", str(tmp_path / "x.pth"), "--as", "wrn_16_1"]) == 1
    error = capsys.readouterr().err
    assert "missing keys: conv_3x3.weight" in error
    assert len(error.strip().splitlines()) == 1
