"""Networks built around weights that are already there are the ones timm's own path gives."""

import hashlib

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn.utils.parametrize import ParametrizationList

from zoo.models import _build
from zoo.models.lrunet import LruNet
from zoo.weights.manifest import weights

ARCHITECTURES = ["lrunet10_100", "swrn_16_4_2", "symm_wrn_16_4_tri", "sparse_wrn_16_2", "pd_b_resnet18"]
TAG = "test_in1k"


only_lrunet = pytest.mark.parametrize("weight", ["lrunet10_100"], indirect=True)


@pytest.fixture(params=ARCHITECTURES)
def weight(request, tmp_path, monkeypatch):
    """A staged weight of an architecture, made unequal to any initialisation."""
    arch = request.param
    model = timm.create_model(arch)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.01)
    folder = tmp_path / f"{arch}.{TAG}"
    folder.mkdir()
    save_file({key: t.contiguous() for key, t in model.state_dict().items()}, folder / "model.safetensors")
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    size = (folder / "model.safetensors").stat().st_size
    entry = next(iter(weights().values()))
    monkeypatch.setitem(weights(), f"{arch}.{TAG}", {**entry, "sha256": sha256, "size": size, "sources": []})
    monkeypatch.setenv("ZOO_HUB", str(tmp_path))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return arch, model


def load(arch: str, **kwargs):
    cfg = {"tag": TAG, "file": "", "input_size": timm.create_model(arch).pretrained_cfg["input_size"]}
    return timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=cfg, **kwargs)


def test_it_is_the_same_network(weight, monkeypatch):
    """Tensors, buffers that are in no file, type, and scores; and nothing was drawn at random."""
    arch, model = weight
    cfg = {"tag": TAG, "file": "", "input_size": model.pretrained_cfg["input_size"]}
    state = torch.random.get_rng_state()
    loaded = timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=cfg)
    assert torch.equal(torch.random.get_rng_state(), state), "random numbers were drawn"
    assert type(loaded) is type(model)
    for kind in ("named_parameters", "named_buffers"):
        expected, found = dict(getattr(model, kind)()), dict(getattr(loaded, kind)())
        assert list(found) == list(expected)
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert found[name].requires_grad == tensor.requires_grad
            assert torch.equal(found[name], tensor), name
    made = [part for part in loaded.modules() if isinstance(part, ParametrizationList)]
    assert not any(part.unsafe for part in made), "what is assigned to a kernel later is checked as always"
    x = torch.randn(2, *loaded.pretrained_cfg["input_size"])[..., :32, :32]
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), model.eval()(x))
    loaded.train()(x).sum().backward()
    torch.optim.SGD(loaded.parameters(), 0.1).step()


def test_features_and_adaption(weight):
    """Without the classifier, and with another one: timm's rules, no tensor left empty."""
    arch, model = weight
    features = load(arch, features_only=True)
    adapted = load(arch, num_classes=7)
    assert adapted.num_classes == 7
    for network in (features, adapted):
        assert not any(t.is_meta for t in [*network.parameters(), *network.buffers()])
    name = model.pretrained_cfg["first_conv"] + ".weight"
    first = dict(model.named_parameters()).get(name)
    if first is not None:
        assert torch.equal(dict(adapted.named_parameters())[name], first)


@only_lrunet
def test_half_precision_files_give_the_networks_own_type(weight, tmp_path, monkeypatch):
    arch, model = weight
    path = tmp_path / f"{arch}.{TAG}" / "model.safetensors"
    save_file({k: t.half() if t.is_floating_point() else t for k, t in model.state_dict().items()}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(weights()[f"{arch}.{TAG}"], "sha256", sha256)
    monkeypatch.setitem(weights()[f"{arch}.{TAG}"], "size", path.stat().st_size)
    assert {p.dtype for p in load(arch).parameters()} == {torch.float32}


def test_a_buffer_that_no_file_has_is_as_always():
    class WithTable(LruNet):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.register_buffer("table", torch.arange(3) + 1, persistent=False)

    state = torch.random.get_rng_state()
    with _build._WithoutDrawing():
        model = WithTable()
        timm.create_model("symm_wrn_16_1", symm_type="pdpt")
    assert torch.equal(torch.random.get_rng_state(), state), "random numbers were drawn"
    assert torch.equal(model.table, torch.arange(3) + 1)


@pytest.mark.parametrize("weight", ["swrn_16_1_2", "symm_wrn_16_1", "sparse_wrn_16_1"], indirect=True)
def test_no_kernel_is_made_before_its_values_are_there(weight, monkeypatch):
    arch, model = weight
    kinds = {type(maker) for part in model.modules() if isinstance(part, ParametrizationList) for maker in part}
    assert kinds
    cfg = {"tag": TAG, "file": "", "input_size": model.pretrained_cfg["input_size"]}
    with monkeypatch.context() as patched:
        for kind in kinds:
            patched.setattr(kind, "forward", lambda self, learned: pytest.fail("a kernel was made"))
        loaded = timm.create_model(arch, pretrained=True, pretrained_cfg_overlay=cfg)
    with torch.no_grad():
        x = torch.randn(2, *loaded.pretrained_cfg["input_size"])
        assert torch.equal(loaded.eval()(x), model.eval()(x))
