"""torchvision's detectors on a ResNet whose convolutions are ParaDise branches in training, plain ones afterwards.

    python examples/detection.py PHOTOGRAPHS                  RetinaNet, PD-A, ResNet-50, a few steps
    python examples/detection.py PHOTOGRAPHS --detector faster_rcnn --kind pd_b --steps 200

PHOTOGRAPHS is any folder of photographs. Each is pasted at a random place of a grey canvas in a random size, so that
its box is known; the detector is to find it. The batch norms of the backbone have to be ``nn.BatchNorm2d``:
torchvision's default, ``FrozenBatchNorm2d``, has no statistics that branches could learn, and ``zoo.transform`` leaves
its convolutions alone and says so. So few steps from random weights teach little; pass ``weights="DEFAULT"`` to
``resnet_fpn_backbone`` where there is a connection.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.transforms.functional import pil_to_tensor

import zoo

DETECTORS = {"retinanet": RetinaNet, "faster_rcnn": FasterRCNN}
Sample = tuple[Tensor, dict[str, Tensor]]


def detector(name: str, kind: str, backbone: str = "resnet50", side: int = 256) -> nn.Module:
    """A detector of one class whose backbone is transformed; heads and pyramid stay as they are.

    Args:
        name: ``retinanet`` or ``faster_rcnn``.
        kind: Transformation of the backbone, ``pd_a`` or ``pd_b``.
        backbone: torchvision's name of a ResNet.
        side: Images are resized to this height and width.
    """
    options = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)} if name == "retinanet" else {}
    plain = resnet_fpn_backbone(
        backbone_name=backbone, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5, **options
    )
    transformed = zoo.transform(plain, kind, input_size=(3, side, side))
    # one that has learned little is to find something too: else no boxes would be the same as no boxes
    threshold = {"score_thresh" if name == "retinanet" else "box_score_thresh": 0.0}
    return DETECTORS[name](transformed, num_classes=2, min_size=side, max_size=side, **threshold)


def samples(photographs: list[Path], side: int, generator: torch.Generator) -> Iterator[Sample]:
    """Canvases (3, side, side), float32 from 0 to 1, and what is on them, in torchvision's form, without end."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    while True:
        for place in torch.randperm(len(photographs), generator=generator).tolist():
            with Image.open(photographs[place]) as image:
                width, height = draw(side // 3, side * 3 // 4), draw(side // 3, side * 3 // 4)
                photograph = pil_to_tensor(image.convert("RGB").resize((width, height))) / 255
            left, top = draw(0, side - width), draw(0, side - height)
            canvas = torch.full((3, side, side), 0.5)
            canvas[:, top : top + height, left : left + width] = photograph
            box = torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32)
            yield canvas, {"boxes": box, "labels": torch.ones(1, dtype=torch.int64)}


def train(model: nn.Module, source: Iterator[Sample], steps: int, batch: int = 4, lr: float = 0.01) -> list[float]:
    """Train a detector in place; the loss of each step."""
    optimizer = torch.optim.SGD(zoo.layers.decay_groups(model, 1e-4), lr=lr, momentum=0.9)
    losses = []
    model.train()
    for _ in range(steps):
        images, targets = zip(*(next(source) for _ in range(batch)), strict=True)
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def boxes(model: nn.Module, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """What a detector finds, in its own data type."""
    dtype = next(model.parameters()).dtype
    return model.eval()([image.to(dtype) for image in images])


def evaluate(found: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> tuple[float, float]:
    """Mean IoU of the best-scored box of each image, and the part of them with an IoU of at least 0.5."""
    overlaps = torch.zeros(len(targets))
    for i, (one, target) in enumerate(zip(found, targets, strict=True)):
        if len(one["boxes"]):  # the best-scored one is the first
            overlaps[i] = box_iou(one["boxes"][:1].float(), target["boxes"]).item()
    return overlaps.mean().item(), (overlaps >= 0.5).float().mean().item()


def largest_difference(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> float:
    """Of boxes (pixels) and scores that two detectors find; infinite if they find other classes or numbers of them."""
    gaps = [0.0]
    for a, b in zip(one, other, strict=True):
        if not torch.equal(a["labels"], b["labels"]):
            return float("inf")
        gaps += [(a[key] - b[key]).abs().max().item() for key in ("boxes", "scores") if len(a["labels"])]
    return max(gaps)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", type=Path, help="folder of photographs, also in subfolders")
    parser.add_argument("--detector", choices=DETECTORS, default="retinanet")
    parser.add_argument("--kind", choices=("pd_a", "pd_b"), default="pd_a")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--side", type=int, default=256, help="height and width of the images")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args(words)
    endings = (".jpeg", ".jpg", ".png")
    files = sorted(p for p in args.photographs.rglob("*") if p.suffix.lower() in endings)
    if len(files) < 2:
        sys.exit(f"{args.photographs}: there are no photographs ({', '.join(endings)}) in it: name another folder.")
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    held_out, rest = files[::5], [file for i, file in enumerate(files) if i % 5]

    model = detector(args.detector, args.kind, args.backbone, args.side)
    print(model.backbone.zoo_report)
    losses = train(model, samples(rest, args.side, generator), args.steps)
    print("loss: " + ", ".join(f"{loss:.3f}" for loss in losses))

    source = samples(held_out, args.side, generator)
    images, targets = zip(*(next(source) for _ in range(min(len(held_out), 16))), strict=True)
    model = model.double().eval()  # in float64 nothing but rounding is between the two
    collapsed = zoo.reparameterize(model)
    before, after = boxes(model, images), boxes(collapsed, images)
    for what, found in (("branches", before), ("collapsed", after)):
        print("{}: mean IoU of the best box {:.3f}, at least 0.5 for {:.0%}".format(what, *evaluate(found, targets)))
    parameters = [sum(p.numel() for p in network.parameters()) for network in (model, collapsed)]
    print("parameters: {:,}, collapsed {:,}".format(*parameters))
    count = sum(len(found["boxes"]) for found in before)
    print(f"largest difference of {count:,} boxes and their scores: {largest_difference(before, after):.1e}")


if __name__ == "__main__":
    main()
