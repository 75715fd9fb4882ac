"""``to_stock``: the stock network that a collapsed one is, with keys that need no code of ours to load or run."""

import re
from collections.abc import Mapping

import timm
import torch
from timm.models import ResNet
from torch import Tensor, nn

from ..errors import ZooError
from ..layers.paradise import to_plain_bn
from ..models._plain_resnet import DEPTHS, PlainResNet
from .collapse import reparameterize


@torch.no_grad()
def to_stock(model: nn.Module) -> ResNet:
    """Return timm's own ``resnet18/34/50/101/152`` that computes the same function in eval mode.

    PD-A-, AC-, symmetric and sparse ResNets and the like become ordinary ones; the state dict also loads strictly into
    torchvision's. The forms for small images, or of another width, which no library has a name for, become this zoo's
    plain ones (``resnet18_cifar``): timm's class with the same keys.

    Args:
        model: Network in eval mode; it is not changed.

    Raises:
        ZooError: If no stock network computes this function, or the model is in training mode.
    """
    plain = reparameterize(model)
    if not isinstance(plain, ResNet):
        raise ZooError(
            f"{type(model).__name__} has no stock network in timm or torchvision; zoo.reparameterize makes it plain."
        )
    for block in (b for stage in (plain.layer1, plain.layer2, plain.layer3, plain.layer4) for b in stage):
        for i in (1, 2, 3):
            conv, bn = getattr(block, f"conv{i}", None), getattr(block, f"bn{i}", None)
            if type(conv) is nn.Conv2d and isinstance(bn, nn.Identity):
                conv, bn = to_plain_bn(conv)
                setattr(block, f"conv{i}", conv)
                setattr(block, f"bn{i}", bn)
    state = plain.state_dict()
    form = resnet_form(state)
    if form is None:
        raise ZooError(
            f"{type(model).__name__} keeps parts that depend on the data (a gate or attention), so no stock ResNet "
            "computes its function."
        )
    kwargs = {"num_classes": model.num_classes, "in_chans": form["in_chans"]}
    if form["width"] == 1 and not form["small_images"]:
        stock = timm.create_model(f"resnet{form['depth']}", **kwargs)
    else:
        stock = PlainResNet(form["depth"], form["width"], form["small_images"], **kwargs)
    own = stock.state_dict()
    wrong = [k for k in own.keys() | state.keys() if k not in own or k not in state or own[k].shape != state[k].shape]
    if wrong:
        raise ZooError(
            f"No stock ResNet has the tensors of this {type(model).__name__}: {', '.join(sorted(wrong)[:4])}."
        )
    stock = stock.to(state["conv1.weight"])
    stock.load_state_dict(state, strict=True)
    return stock.eval()


def resnet_form(state: Mapping[str, Tensor]) -> dict | None:
    """Read depth, width and stem of a plain ResNet off its state dict.

    Returns:
        ``depth``, ``width``, ``small_images``, ``in_chans`` and ``num_classes`` (0 without a classifier), or None if
        the state dict is not a plain ResNet's.
    """
    blocks = {match[0] for match in (re.match(r"layer[1-4]\.\d+", key) for key in state) if match}
    layers = tuple(sum(block.startswith(f"layer{i}.") for block in blocks) for i in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in state
    known = [d for d, (block, n) in DEPTHS.items() if n == layers and (block.__name__ == "Bottleneck") == bottleneck]
    plain = re.compile(r"(layer[1-4]\.\d+\.)?(conv[1-3]|bn[1-3]|downsample\.[01]|fc)\.\w+")
    if not known or "conv1.weight" not in state or not all(plain.fullmatch(key) for key in state):
        return None
    stem = state["conv1.weight"]
    return {
        "depth": known[0],
        "width": stem.shape[0] / 64,
        "small_images": stem.shape[-1] == 3,
        "in_chans": stem.shape[1],
        "num_classes": state["fc.weight"].shape[0] if "fc.weight" in state else 0,
    }
