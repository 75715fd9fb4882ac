"""``to_stock``: the stock network that a collapsed one is, with keys that need no code of ours to load or run."""

import timm
from timm.models import ResNet
from torch import nn

from ..errors import ZooError
from ..layers.batch_norm import to_plain_bn
from ..models._plain_resnet import resnet_form
from ..models._same_function import check_same_function
from ..precision import full_precision
from .collapse import reparameterize
from .described import name_it, plain_resnet


@full_precision()
def to_stock(model: nn.Module) -> ResNet:
    """Return timm's own ``resnet18/34/50/101/152`` that computes the same function in eval mode.

    PD-A-, AC-, symmetric and sparse ResNets and the like become ordinary ones; the state dict also loads strictly into
    torchvision's. The forms for small images, or of another width, which no library has a name for, become this zoo's
    plain ones (``resnet18_cifar``): timm's class with the same keys. The functions are compared, not only the keys.

    Args:
        model: Network in eval mode; it is not changed.

    Raises:
        ZooError: If no stock network computes this function, with what differs; or the model is in training mode.
    """
    plain = reparameterize(model)
    _split_biases(plain)
    try:
        form = resnet_form(plain)
        name, arguments = plain_resnet(form)
        arguments |= {"in_chans": form.in_chans}
        stock = timm.create_model(name, num_classes=form.num_classes, **arguments)
        stock = stock.to(next(plain.parameters()))
        check_same_function(plain, stock, form.label, form.in_chans)
    except ZooError as error:
        raise ZooError(f"{type(model).__name__} has no stock network. {error}") from None
    if cfg := getattr(model, "pretrained_cfg", None):
        name_it(stock, {**cfg, "num_classes": form.num_classes}, name, arguments, f"the plain {name}")
    return stock.eval()


def _split_biases(model: nn.Module) -> None:
    """Give convolutions that have a batch norm folded in, one with its bias back, in place."""
    for parent in list(model.modules()):
        pairs = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3)]
        if isinstance(parent, nn.Sequential) and len(parent) == 2:
            pairs.append(("0", "1"))
        for first, second in pairs:
            conv, bn = (parent._modules.get(name) for name in (first, second))
            if type(conv) is nn.Conv2d and conv.bias is not None and isinstance(bn, nn.Identity):
                parent._modules[first], parent._modules[second] = to_plain_bn(conv)
