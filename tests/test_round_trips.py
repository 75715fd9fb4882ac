"""What users save, cut, copy, average and load with timm, torch and transformers comes back right."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.parallel.replicate
from safetensors.torch import save_file
from timm.models import save_for_hf
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn
from torchvision.models.feature_extraction import create_feature_extractor

import zoo
from loopback import running
from loopback_hub import WritableHub
from protocol import close, images, make
from zoo.makers import is_made, maker_of
from zoo.models.swrn import SharedWideResNet
from zoo.publishing.repository import config_json
from zoo.weights.load import SOURCES
from zoo.weights.manifest import weights

ROOT = Path(__file__).resolve().parent.parent
STAGED = sorted(path.parent.name for path in ROOT.glob("hub/*/model.safetensors"))
ONE_OF_EACH_FAMILY = [
    "lrunet1_100.zoo_fmnist",
    "swrn_28_1_2.zoo_c10",
    "symm_wrn_16_1.zoo_spa_c10",
    "sparse_wrn_16_1.zoo_dsr_s90_c10",
    "pd_a_resnet18_half_cifar.zoo_e6_c10",
]


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


# Saving and loading with timm


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 5}, {"num_classes": 0}, {"in_chans": 2, "num_classes": 3}])
@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_a_fine_tuned_network_comes_back(name, kwargs, safe, tmp_path):
    model = timm.create_model(name, pretrained=True, **kwargs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    save_for_hf(model, tmp_path, safe_serialization=safe)
    restored = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert type(restored) is type(model)
    assert same(restored, model)
    assert restored.num_classes == model.num_classes
    x = images(model)[:, :1].expand(-1, kwargs.get("in_chans", model.pretrained_cfg["input_size"][0]), -1, -1)
    assert torch.equal(restored.eval()(x), model.eval()(x))


@pytest.mark.parametrize(
    "name", ["symm_wrn_16_1", "sparse_wrn_16_1", "swrn_16_2_2", "lrunet2_100", "pd_b_resnet18_cifar"]
)
def test_an_untrained_network_with_arguments_of_its_own_comes_back(name, tmp_path):
    arguments = {
        "symm_wrn_16_1": {"symm_type": "block4"},
        "sparse_wrn_16_1": {"sparsity": 0.5, "sparse_unit": "kernel"},
    }
    model = timm.create_model(name, **arguments.get(name, {}))
    save_for_hf(model, tmp_path, safe_serialization=True)
    assert same(timm.create_model(f"local-dir:{tmp_path}", pretrained=True), model)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("classes", [10, 7])
def test_a_file_under_an_architectures_name_decides_about_channels_and_classes(channels, classes, tmp_path):
    model = timm.create_model("lrunet1_100", num_classes=classes, in_chans=channels)
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "mine.pth.tar")
    for file in ("mine.safetensors", "mine.pth.tar"):
        overlay = {"file": str(tmp_path / file)}
        restored = timm.create_model("lrunet1_100", pretrained=True, pretrained_cfg_overlay=overlay)
        assert same(restored, model)
        assert restored.num_classes == restored.pretrained_cfg["num_classes"] == classes
        assert restored.pretrained_cfg["input_size"][0] == channels


def test_a_file_in_the_hub_folder_is_the_users_too(tmp_path, monkeypatch):
    name = "lrunet1_100.zoo_fmnist"
    hub = tmp_path / "hub"
    shutil.copytree(ROOT / "hub" / name, hub / name)
    monkeypatch.setattr("zoo.weights.manifest.shipped_hub", lambda: hub)
    monkeypatch.setenv("ZOO_HUB", str(hub))
    model = timm.create_model(name, pretrained=True)
    with torch.no_grad():
        model.head.fc.bias.add_(1)
    save_file(model.state_dict(), hub / "mine.safetensors")
    overlay = {"file": str(hub / "mine.safetensors")}
    assert same(timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay), model)
    save_file(model.state_dict(), hub / name / "model.safetensors")  # the manifest's own source is bound by its sha256
    with pytest.raises(zoo.HashMismatchError, match="sha256 mismatch"):
        timm.create_model(name, pretrained=True)


def test_a_pushed_network_comes_back_from_the_hub(tmp_path):
    hub = WritableHub()
    script = (
        "import timm, torch, zoo\n"
        "from timm.models import push_to_hf_hub\n"
        "model = timm.create_model('swrn_28_1_2.zoo_c10', pretrained=True, num_classes=4)\n"
        "push_to_hf_hub(model, 'org/mine', token='hf_right')\n"
        "again = timm.create_model('hf-hub:org/mine', pretrained=True)\n"
        "a, b = model.state_dict(), again.state_dict()\n"
        "assert list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)\n"
    )
    with running(hub):
        env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        env |= {"HF_TOKEN": "hf_right", "no_proxy": "127.0.0.1"}
        run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "org/mine: not the published swrn_28_1_2.zoo_c10; it is loaded as it is, unverified." in run.stderr


def test_an_address_of_the_users_takes_the_place_of_every_other_source():
    overlay = {"url": "https://example.invalid/mine.safetensors"}
    with pytest.raises(zoo.WeightError, match="its sha256 is not known, so nothing was downloaded"):
        timm.create_model("lrunet1_100.zoo_fmnist", pretrained=True, pretrained_cfg_overlay=overlay)


@pytest.mark.parametrize("name", STAGED)
def test_a_staged_configuration_is_what_is_written_for_the_network(name):
    assert config_json(timm.create_model(name)) == (ROOT / "hub" / name / "config.json").read_bytes()


def test_a_packed_file_alone_makes_a_folder(tmp_path):
    name = "sparse_wrn_16_1.zoo_dsr_s90_c10"
    for file in ("config.json", "model.packed.safetensors"):
        shutil.copyfile(ROOT / "hub" / name / file, tmp_path / file)
    assert same(timm.create_model(f"local-dir:{tmp_path}", pretrained=True), timm.create_model(name, pretrained=True))


def test_an_architecture_is_the_same_whatever_weights_there_are():
    for name in {weight.split(".", 1)[0] for weight in weights()}:
        with torch.device("meta"):
            model = timm.create_model(name)
        small = name.startswith("sparse_mlp")
        assert model.pretrained_cfg["input_size"][0] == (1 if small else 3), name
        assert not model.pretrained_cfg.get("tag")
        assert not any(model.pretrained_cfg.get(key) for key in SOURCES)
    assert timm.create_model("lrunet1_100.zoo_fmnist").pretrained_cfg["input_size"] == (1, 28, 28)


def test_a_type_error_of_the_networks_own_code_keeps_its_traceback(monkeypatch):
    def broken(self):
        return len(3)

    monkeypatch.setattr(SharedWideResNet, "reset_parameters", broken)
    with pytest.raises(TypeError, match="has no len"):
        zoo.create_model("swrn_16_1_2")
    with pytest.raises(zoo.UnknownNameError, match=r"takes no argument 'bank_sizes'. Did you mean bank_size"):
        zoo.create_model("swrn_16_1_2", bank_sizes=2)


@pytest.mark.parametrize("name", STAGED)
def test_transformers_loads_every_staged_folder(name):
    transformers = pytest.importorskip("transformers")
    folder = ROOT / "hub" / name
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    ours = timm.create_model(name, pretrained=True).eval()
    x = images(ours)
    with torch.no_grad():
        assert torch.equal(theirs(x).logits, ours(x))
    assert list(theirs.config.id2label.values()) == ours.pretrained_cfg["label_names"]


# Parts


@pytest.mark.parametrize("name", ["swrn_28_1_2", "symm_wrn_16_1", "sparse_wrn_16_1"])
def test_feature_extractors_move_and_train(name):
    model = make(name)
    x = images(model)
    node = {"stages.2": "deep"} if name != "swrn_28_1_2" else {"final": "deep"}
    extractor = create_feature_extractor(model, node)
    expected = extractor(x)["deep"]
    close(extractor.double()(x.double())["deep"], expected, 1e-4)
    extractor.train()(x.double())["deep"].square().mean().backward()
    assert all(p.grad is not None for p in extractor.parameters())


@pytest.mark.parametrize(
    "name", ["swrn_28_1_2", "symm_wrn_16_1", "sparse_wrn_16_1", "lrunet2_100", "pd_b_resnet18_half_cifar"]
)
def test_a_data_parallel_replica_computes_with_its_own_tensors(name, monkeypatch):
    module = sys.modules["torch.nn.parallel.replicate"]
    copies = lambda tensors, devices, detach=False: [[t.clone() for t in tensors] for _ in devices]  # noqa: E731
    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", copies)
    monkeypatch.setattr(module, "_get_device_index", lambda device, *args: device)
    model = make(name)
    x = images(model)
    second = module.replicate(model, [0, 1])[1]
    with torch.no_grad():
        expected = second(x).clone()
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(second(x), expected)


def test_the_state_dict_of_a_traced_network_goes_back_into_its_kind():
    model, other = make("swrn_16_2_2"), timm.create_model("swrn_16_2_2").eval()
    traced = torch.fx.symbolic_trace(model)
    state = traced.state_dict()
    assert [key for key in state if "templates" in key] == [
        f"stages.{i}.1.conv1.parametrizations.weight.0.bank.templates" for i in range(3)
    ]
    other.load_state_dict(state)  # under the name of the first layer, where the network's own attribute has none
    assert torch.equal(other(images(model)), model(images(model)))
    wrong = {
        **model.state_dict(),
        "stages.0.1.conv2.parametrizations.weight.0.bank.templates": torch.zeros(2, 32, 32, 3, 3),
    }
    with pytest.raises(RuntimeError, match=r"must repeat banks.0.templates"):
        other.load_state_dict(wrong)


def test_whole_networks_can_be_read_by_another_process(tmp_path):
    model = make("swrn_16_1_2")
    torch.save(model, tmp_path / "model.pt")
    torch.save(model(images(model)), tmp_path / "scores.pt")
    torch.save(images(model), tmp_path / "images.pt")
    script = (
        "import sys, torch; f = sys.argv[1]; m = torch.load(f + '/model.pt', weights_only=False); "
        "s = m(torch.load(f + '/images.pt')); assert torch.equal(s, torch.load(f + '/scores.pt'))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, cwd=ROOT)


# Averages


def masks(model: nn.Module) -> list[torch.Tensor]:
    return [maker_of(layer).mask for layer in model.modules() if is_made(layer)]


def move(model: nn.Module) -> None:
    """Sparsity that moves: as many weights, elsewhere."""
    for mask in masks(model):
        mask.copy_(mask.flatten().roll(1).view_as(mask))


def train_a_little(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)


AVERAGES = {
    "ema": lambda m: AveragedModel(m, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    "ema, long": lambda m: AveragedModel(m, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.999)),
    "ema, one by one": lambda m: AveragedModel(m, use_buffers=True, avg_fn=get_ema_avg_fn(0.9)),
}


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
def test_averaged_masks_are_refused(average):
    model = timm.create_model("sparse_wrn_16_1", sparsity=0.9)
    mean = average(model)
    for _ in range(3):
        mean.update_parameters(model)
        move(model)
    with pytest.raises(zoo.ZooError, match=r"averaged with others.*use_buffers=False"):
        masks(mean.module)
    with pytest.raises(zoo.ZooError, match="averaged"):
        mean.module.eval()(torch.zeros(1, 3, 32, 32))
    with pytest.raises(zoo.ZooError, match="averaged"):
        mean.module.state_dict()


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
def test_a_mask_that_stays_can_be_averaged(average):
    model = timm.create_model("sparse_wrn_16_1", sparsity=0.9)
    mean = average(model)
    for _ in range(3):
        mean.update_parameters(model)
        train_a_little(model)
    assert all(map(torch.equal, masks(mean.module), masks(model)))


def test_plain_weight_averaging_of_masks_is_refused():
    model = timm.create_model("sparse_wrn_16_1", sparsity=0.9)
    mean = AveragedModel(model, use_buffers=True)
    mean.update_parameters(model)
    with pytest.raises(Exception, match=r"^[^\n]*bool[^\n]*$"):
        mean.update_parameters(model)


def test_an_averaged_index_is_refused():
    model = timm.create_model("sparse_wrn_16_1", reparam="tied", sparsity=0.5)
    mean = AveragedModel(model, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    before = [maker_of(layer).index.clone() for layer in model.modules() if is_made(layer)]
    for _ in range(30):
        mean.update_parameters(model)
    makers = [maker_of(layer) for layer in mean.module.modules() if is_made(layer)]
    damaged = [m for m, index in zip(makers, before, strict=True) if not torch.equal(m._buffers["index"], index)]
    for maker in damaged:
        with pytest.raises(zoo.ZooError, match="The index of a layer was averaged"):
            maker.index.sum()


@pytest.mark.parametrize("average", [AveragedModel, lambda m: ModelEmaV3(m, decay=0.9)], ids=["torch", "timm"])
def test_averages_that_copy_buffers_have_the_networks_masks(average):
    model = timm.create_model("sparse_wrn_16_1", sparsity=0.9)
    mean = average(model)
    for _ in range(3):
        train_a_little(model)
        move(model)
        with torch.no_grad():  # and between layers
            masks(model)[0].view(-1)[:5] = False
        mean.update(model) if isinstance(mean, ModelEmaV3) else mean.update_parameters(model)
    assert all(map(torch.equal, masks(mean.module), masks(model)))
    assert torch.isfinite(mean.module.eval()(torch.zeros(1, 3, 32, 32))).all()


@pytest.mark.parametrize("kind", ["tri", "eight", "chunk_0_2"])
def test_symmetric_networks_average_right(kind):
    model = timm.create_model("symm_wrn_16_1", symm_type=kind).eval()
    mean = AveragedModel(model, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(5):
        mean.update_parameters(model)
    x = images(model)
    close(mean.module.eval()(x), model(x), 1e-6)
