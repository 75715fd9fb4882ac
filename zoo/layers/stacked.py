"""Several convolutions of one input, each with its batch norm, as one convolution and one batch norm.

The kernels are padded to 3x3 and made dense inside the graph of gradients, so parameters, buffers and state dict stay
those of the separate layers. It is meant for GPUs, where many small calls cost more than the arithmetic they save: the
five convolutions of a PD layer are 2.7 times the multiply-adds of one, stacked they are 5 times. On a CPU, where
arithmetic decides, the stacked form was measured to take 1.4 to 2.4 times as long as the separate one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from ..precision import is_channels_last


def is_eager(x: Tensor) -> bool:
    """Whether ``x`` is a tensor with values, not one that stands for others while a graph is recorded or compiled."""
    recording = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()
    return not recording and type(x) is Tensor


def pays(x: Tensor) -> bool:
    """Whether the stacked form is the faster one for this input."""
    return is_eager(x) and x.is_cuda and x.dim() == 4


def can_stack(modules: Sequence[nn.Module], pairs: Sequence[tuple[nn.Conv2d, nn.BatchNorm2d]]) -> bool:
    """Whether the stacked form computes what the separate layers do and nobody could tell the two apart.

    Args:
        modules: All modules that the separate form calls: none has a hook or a ``forward`` of its own.
        pairs: The convolutions, unchanged and without bias, and the batch norm after each; the batch norms agree in
            mode, momentum and eps.
    """
    if len(pairs) < 2 or _has_any_global_hook() or any(_is_watched(module) for module in modules):
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:  # torch.func has rules of its own for buffers
        return False
    convs, bns = zip(*pairs, strict=True)
    return (
        all(type(conv) is nn.Conv2d and _is_plain(conv) for conv in convs)
        and all(type(bn) is nn.BatchNorm2d and _is_complete(bn) for bn in bns)
        and len({(conv.weight.dtype, conv.weight.device, conv.stride, conv.out_channels) for conv in convs}) == 1
        and len({(bn.training, bn.momentum, bn.eps, bn.weight.dtype, bn.weight.device) for bn in bns}) == 1
    )


def stacked_conv_bn(
    x: Tensor, pairs: Sequence[tuple[nn.Conv2d, nn.BatchNorm2d]], factors: Tensor | None = None
) -> Tensor:
    """The sum of what each pair of convolution and batch norm gives; running statistics are updated as by these.

    Args:
        x: (batch, in, height, width).
        pairs: As in :func:`can_stack`, which must have said yes.
        factors: Of the terms of the sum, (batch, pairs); None for 1.

    Returns:
        (batch, out, height / stride, width / stride), channels-last where the convolution's output is.
    """
    convs, bns = zip(*pairs, strict=True)
    first = bns[0]
    kernels = torch.cat([pad_to_3x3(densify(conv.weight, conv.groups)) for conv in convs])
    mean, var, weight, bias = (
        torch.cat([getattr(bn, name) for bn in bns]) for name in ("running_mean", "running_var", "weight", "bias")
    )
    y = F.conv2d(x, kernels, None, convs[0].stride, 1)
    y = F.batch_norm(y, mean, var, weight, bias, first.training, first.momentum, first.eps)
    if first.training:
        with torch.no_grad():
            own = [bn.running_mean for bn in bns] + [bn.running_var for bn in bns]
            torch._foreach_copy_(own, [*mean.chunk(len(bns)), *var.chunk(len(bns))])
            torch._foreach_add_([bn.num_batches_tracked for bn in bns], 1)
    if is_channels_last(y):  # torch sums into the other format
        y = y.permute(0, 2, 3, 1).unflatten(3, (len(bns), -1))
        y = y if factors is None else y * factors[:, None, None, :, None]
        return y.sum(3).permute(0, 3, 1, 2)
    y = y.unflatten(1, (len(bns), -1))
    return (y if factors is None else y * factors[:, :, None, None, None]).sum(1)


def densify(kernel: Tensor, groups: int) -> Tensor:
    """(out, in / groups, h, w) -> (out, in, h, w), block-diagonal."""
    if groups == 1:
        return kernel
    blocks = kernel.unflatten(0, (groups, -1))
    dense = blocks.new_zeros(groups, blocks.shape[1], groups, *blocks.shape[2:])
    diagonal = torch.arange(groups, device=kernel.device)
    dense[diagonal, :, diagonal] = blocks
    return dense.flatten(2, 3).flatten(0, 1)


def pad_to_3x3(kernel: Tensor) -> Tensor:
    """(out, in, 1 or 3, 1 or 3) -> (out, in, 3, 3), zeros around it."""
    pad_y, pad_x = ((3 - side) // 2 for side in kernel.shape[2:])
    return F.pad(kernel, (pad_x, pad_x, pad_y, pad_y)) if pad_y or pad_x else kernel


def _is_watched(module: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in vars(module) or any(getattr(module, name) for name in hooks)


def _is_plain(conv: nn.Conv2d) -> bool:
    sides = conv.kernel_size
    return (
        type(conv.weight) in (nn.Parameter, Tensor)
        and conv.bias is None
        and set(sides) <= {1, 3}
        and conv.padding == (sides[0] // 2, sides[1] // 2)
        and (conv.dilation, conv.padding_mode) == ((1, 1), "zeros")
    )


def _is_complete(bn: nn.BatchNorm2d) -> bool:
    """Whether it has all its tensors, and averages them by a fixed momentum."""
    tensors = (bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.num_batches_tracked)
    return bn.momentum is not None and bn.track_running_stats and all(t is not None for t in tensors)
