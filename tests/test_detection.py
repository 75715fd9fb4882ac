"""torchvision's detectors, and a segmentation network, on backbones of branches: trained, collapsed, the same boxes."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone

import zoo
from conftest import ROOT, data_folder
from zoo.errors import ZooError
from zoo.layers.paradise import PDAConv2d

spec = importlib.util.spec_from_file_location("detection", ROOT / "examples" / "detection.py")
detection = importlib.util.module_from_spec(spec)
spec.loader.exec_module(detection)

SIDE = 64


def photographs() -> list[Path]:
    """Real ones where they are at hand, else two of the project's own pictures."""
    folder = data_folder() and data_folder() / "data" / "imagenette2-val" / "images"
    if folder and folder.is_dir():
        return sorted(folder.glob("*/*.JPEG"))[:4]
    return [ROOT / "docs" / "front.png", ROOT / "docs" / "results.png"]


@pytest.mark.parametrize(
    ("name", "kind"), [("retinanet", "pd_a"), pytest.param("faster_rcnn", "pd_b", marks=pytest.mark.slow)]
)
def test_a_detector_trains_on_branches_and_finds_the_same_boxes_collapsed(name, kind):
    torch.manual_seed(0)
    source = detection.samples(photographs(), SIDE, torch.Generator().manual_seed(0))
    model = detection.detector(name, kind, "resnet18", SIDE)
    assert len(model.backbone.zoo_report.changed) == 16
    assert model.backbone.zoo_report.left_alone["fpn.layer_blocks.0.0"] == "no batch norm behind it"
    start = model.backbone.body.layer1[0].conv1.branches["group"].conv.weight.detach().clone()
    losses = detection.train(model, source, steps=2, batch=2)
    assert all(loss == loss and loss < 100 for loss in losses)
    assert not torch.equal(model.backbone.body.layer1[0].conv1.branches["group"].conv.weight, start)

    model = model.double().eval()
    collapsed = zoo.reparameterize(model)
    branched = [m for m in collapsed.modules() if isinstance(m, PDAConv2d)]
    assert type(collapsed) is type(model) and not branched
    images, targets = zip(*(next(source) for _ in range(2)), strict=True)
    before, after = detection.boxes(model, images), detection.boxes(collapsed, images)
    assert all(len(found["boxes"]) for found in before)
    assert detection.largest_difference(before, after) < 1e-8
    assert detection.evaluate(before, targets) == detection.evaluate(after, targets)


def test_a_whole_detector_is_transformed_as_its_backbone_is():
    torch.manual_seed(0)
    backbone = BackboneWithFPN(resnet18(), {"layer1": "0", "layer2": "1"}, [64, 128], 16)
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    plain = RetinaNet(backbone, 2, anchor_generator=anchors, min_size=SIDE, max_size=SIDE).eval()
    model = zoo.transform(plain, "pd_a", input_size=(3, SIDE, SIDE))
    assert {change.name.split(".")[0] for change in model.zoo_report.changed} == {"backbone"}
    assert len(model.zoo_report.changed) == 8
    keys = zoo.reparameterize(model).state_dict().keys()
    assert keys == plain.state_dict().keys()


def test_frozen_batch_norms_are_left_alone_and_it_is_said():
    frozen = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    report = zoo.plan(frozen, "pd_a", input_size=(3, SIDE, SIDE))
    assert not report.changed
    assert report.left_alone["body.layer1.0.conv1"] == "a FrozenBatchNorm2d behind it, not a batch norm"


def test_a_network_that_takes_no_tensor_is_one_line_that_names_the_way_out():
    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.backbone.append(nn.Conv2d(8, 8, 3, padding=1)).append(nn.BatchNorm2d(8))

        def forward(self, images: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.backbone(images["image"])

    model = Lists()
    with pytest.raises(ZooError, match="a part of it that takes images") as caught:
        zoo.transform(model, "pd_a", input_size=(3, 16, 16))
    assert "\n" not in str(caught.value)
    assert len(zoo.transform(model.backbone, "pd_a", input_size=(3, 16, 16)).zoo_report.changed) == 1


def test_an_encoder_of_segmentation_models_collapses():
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("resnet18", encoder_weights=None, classes=2)
    model.encoder = zoo.transform(model.encoder, "pd_a", input_size=(3, SIDE, SIDE))
    assert len(model.encoder.zoo_report.changed) == 16
    x = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    model = model.double()
    model.train()(x).mean().backward()
    collapsed = zoo.reparameterize(model.eval())
    with torch.no_grad():
        assert torch.allclose(collapsed(x), model(x), rtol=0, atol=1e-9)
