"""What a batch norm does in eval mode, and moving it into the layer before it and out again; all in float64."""

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from ..errors import ZooError
from ..precision import full_precision, in_double, same_format

CONV_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)
"""Classes of batch norms that follow a convolution. Subclasses may do more than normalise, timm's also activate."""


def scale_and_shift(bn: nn.Module) -> tuple[Tensor, Tensor]:
    """What a batch norm does in eval mode: ``y = scale * x + shift`` per channel, both float64 of shape (channels,).

    Raises:
        ZooError: If it is no batch norm, or has no running statistics, so that its function depends on the batch.
    """
    if type(bn) not in (*CONV_NORMS, nn.BatchNorm1d):
        raise ZooError(f"A {type(bn).__name__} cannot be folded into a convolution as a batch norm can.")
    if bn.running_mean is None or bn.running_var is None:
        raise ZooError("A batch norm without running statistics cannot be folded: it has no fixed function.")
    mean, variance = in_double(bn.running_mean), in_double(bn.running_var)
    gain = torch.ones_like(variance) if bn.weight is None else in_double(bn.weight)
    bias = torch.zeros_like(mean) if bn.bias is None else in_double(bn.bias)
    scale = gain / torch.sqrt(variance + bn.eps)
    return scale, bias - mean * scale


@full_precision()
def folded_tensors(layer: nn.Conv2d | nn.Linear, bn: nn.Module) -> tuple[Tensor, Tensor]:
    """Kernel and bias, float64, of the layer that computes ``bn(layer(x))`` in eval mode.

    Raises:
        ZooError: As :func:`scale_and_shift`.
    """
    scale, shift = scale_and_shift(bn)
    weight = in_double(layer.weight)
    weight = weight * scale.view(-1, *[1] * (weight.dim() - 1))
    return weight, shift if layer.bias is None else shift + scale * in_double(layer.bias)


@full_precision()
def fold_into(layer: nn.Conv2d | nn.Linear, bn: nn.Module) -> nn.Module:
    """A new layer with bias that computes ``bn(layer(x))`` in eval mode, in the type and place of ``layer``.

    Raises:
        ZooError: As :func:`scale_and_shift`.
    """
    weight, bias = folded_tensors(layer, bn)
    folded = _like(layer, bias=True)
    folded.weight = nn.Parameter(same_format(weight.to(layer.weight), layer.weight), layer.weight.requires_grad)
    shifts = [b for b in (layer.bias, bn.bias) if b is not None] or [layer.weight]
    folded.bias = nn.Parameter(bias.to(layer.weight), any(shift.requires_grad for shift in shifts))
    return folded.eval()


@full_precision()
def affine(bn: nn.Module) -> nn.Module:
    """A batch norm's function in eval mode as a 1x1 depthwise convolution: one scale and one bias per channel.

    Anything else, such as what an earlier call returned, stays as it is.
    """
    if type(bn) not in CONV_NORMS or bn.running_mean is None:
        return bn
    scale, shift = scale_and_shift(bn)
    channels = len(scale)
    layer = nn.Conv2d(channels, channels, 1, groups=channels, device="meta")
    trained = [b is not None and b.requires_grad for b in (bn.weight, bn.bias)]
    layer.weight = nn.Parameter(scale.view(-1, 1, 1, 1).to(bn.running_mean), trained[0])
    layer.bias = nn.Parameter(shift.to(bn.running_mean), trained[1])
    return layer.eval()


@full_precision()
def to_plain_bn(conv: nn.Conv2d) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Split a convolution with bias into a bias-free one and a batch norm that adds the bias in eval mode.

    So a folded network gets the keys of an unmodified ResNet: gain 1, shift b, mean 0, variance 1 - eps.
    """
    plain = _like(conv, bias=False)
    plain.weight = nn.Parameter(same_format(conv.weight, conv.weight), conv.weight.requires_grad)
    bn = nn.BatchNorm2d(conv.out_channels, device=conv.weight.device, dtype=conv.weight.dtype)
    bn.running_var.fill_(1 - bn.eps)
    if conv.bias is not None:
        bn.bias.copy_(conv.bias)
    return plain.train(conv.training), bn.train(conv.training)


def _like(layer: nn.Conv2d | nn.Linear, bias: bool) -> nn.Conv2d | nn.Linear:
    """A layer of the same form without content."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features, bias, device="meta")
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        bias,
        layer.padding_mode,
        device="meta",
    )
