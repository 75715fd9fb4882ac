"""Folding of batch norms into the convolutions before them, in float64."""

import torch
import torch.fx
from torch import Tensor, nn

from ..errors import ZooError

_CONVS = (nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm1d)


def scale_and_shift(bn: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """What a batch norm does in eval mode: ``y = scale * x + shift`` per channel, in float64.

    Raises:
        ZooError: If it has no running statistics, so that its function depends on the batch.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ZooError("A batch norm without running statistics cannot be folded: it has no fixed function.")
    gain = torch.ones_like(bn.running_var) if bn.weight is None else bn.weight
    bias = torch.zeros_like(bn.running_mean) if bn.bias is None else bn.bias
    scale = gain.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    return scale.detach(), (bias.double() - bn.running_mean.double() * scale).detach()


def fold_into(layer: nn.Conv2d | nn.Linear, bn: nn.Module) -> nn.Module:
    """A new layer with bias that computes ``bn(layer(x))`` in eval mode."""
    scale, shift = scale_and_shift(bn)
    weight = layer.weight.double() * scale.view(-1, *[1] * (layer.weight.dim() - 1))
    bias = shift if layer.bias is None else shift + scale * layer.bias.double()
    if isinstance(layer, nn.Linear):
        folded: nn.Module = nn.Linear(layer.in_features, layer.out_features, device="meta")
    else:
        folded = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            padding_mode=layer.padding_mode,
            device="meta",
        )
    folded.weight = nn.Parameter(weight.to(layer.weight.dtype))
    folded.bias = nn.Parameter(bias.to(layer.weight.dtype))
    return folded.eval()


def affine(bn: nn.Module) -> nn.Module:
    """A batch norm's function in eval mode as a 1x1 depthwise convolution: one scale and one bias per channel.

    Anything else, such as what an earlier call returned, stays as it is.
    """
    if not isinstance(bn, nn.BatchNorm2d):
        return bn
    scale, shift = scale_and_shift(bn)
    channels = bn.num_features
    layer = nn.Conv2d(channels, channels, 1, groups=channels, device="meta")
    layer.weight = nn.Parameter(scale.view(-1, 1, 1, 1).to(bn.running_mean.dtype))
    layer.bias = nn.Parameter(shift.to(bn.running_mean.dtype))
    return layer.eval()


def fold_batch_norms(model: nn.Module) -> None:
    """Fold, in place, each batch norm whose only input is a convolution or linear layer that nothing else reads.

    Which those are is read off the traced graph, so that the order in which modules were created does not matter; a
    layer that is used several times keeps its batch norms. A folded batch norm becomes ``nn.Identity``.

    Args:
        model: In eval mode, of plain layers.

    Raises:
        ZooError: If torch.fx cannot trace the model.
    """
    try:
        graph = torch.fx.symbolic_trace(model).graph
    except Exception as error:  # a model of the user's own can fail in any way
        raise ZooError(
            f"The model cannot be traced to find which batch norm follows which convolution ({error}): reparameterize "
            "the part that can, or keep the batch norms."
        ) from None
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = [node for node in graph.nodes if node.op == "call_module"]
    uses: dict[int, int] = {}
    for node in calls:
        uses[id(modules[node.target])] = uses.get(id(modules[node.target]), 0) + 1
    for node in calls:
        bn = modules[node.target]
        before = node.args[0] if node.args else None
        if not isinstance(bn, _NORMS) or not isinstance(before, torch.fx.Node) or before.op != "call_module":
            continue
        layer = modules[before.target]
        once = uses[id(layer)] == 1 and uses[id(bn)] == 1 and len(before.users) == 1
        if type(layer) not in _CONVS or not once:
            continue
        set_module(model, before.target, fold_into(layer, bn))
        set_module(model, node.target, nn.Identity())


def set_module(root: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put a module at a dotted name and return the root, which is the module itself for the empty name."""
    if not name:
        return module
    parent, _, last = name.rpartition(".")
    root.get_submodule(parent)._modules[last] = module
    return root
