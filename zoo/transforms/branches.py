"""Kinds that put parallel branches in place of a convolution and the batch norm behind it: PD-A, PD-B, AC."""

import copy
from collections.abc import Collection, Sequence

import torch
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn

from ..errors import ZooError
from ..layers.paradise import AC_BRANCHES, BRANCHES, PDAConv2d, PDBConv2d, branch_names
from ..precision import full_precision
from ..reparam.walk import replace_parts
from .flow import Flow
from .kinds import Kind
from .target import Target

Layers = str | tuple[str, ...] | None

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormAct2d, SyncBatchNormAct)


class NormPlace(nn.Module):
    """Stands where the batch norm of a convolution was that branches with batch norms of their own took the place of.

    What timm's batch norms do besides, activate and drop, stays here under the same names. ``fuse`` gives the batch
    norm back.

    Args:
        norm: The batch norm.
        conv: The branches.
    """

    def __init__(self, norm: nn.Module, conv: PDAConv2d):
        super().__init__()
        for name in ("drop", "act"):
            if isinstance(part := getattr(norm, name, None), nn.Module):
                self.add_module(name, part)
        like = copy.deepcopy(norm).to("meta").requires_grad_(False)
        for hooks in (like._forward_hooks, like._forward_pre_hooks):
            hooks.clear()
        self.before = (like, conv)  # in a tuple, since neither is a part of this module
        self.train(norm.training)

    def train(self, mode: bool = True) -> nn.Module:
        """Of the batch norms of the branches too, so that whoever freezes this one by its name freezes them."""
        for norm in self.before[1].batch_norms():
            norm.train(mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same shape."""
        for part in self._modules.values():
            x = part(x)
        return x

    @full_precision()
    def fuse(self, batch_norm: str = "fold", network: Collection[nn.Module] = ()) -> nn.Module:
        """What stays of it when the branches have become one convolution.

        Args:
            batch_norm: ``fold`` for nothing, or the activation; ``keep`` for the batch norm, which then only shifts.
            network: The parts of the network that collapses.
        """
        like, conv = self.before
        if batch_norm == "fold" or isinstance(conv, PDBConv2d):
            if not self._modules:
                return nn.Identity()
            return nn.Sequential(*map(copy.deepcopy, self._modules.values())).train(self.training)
        now = conv.batch_norms()[0].running_mean
        shift = conv.fold()[1].sum(0) if conv.gives_shift(network) else torch.zeros_like(now)
        norm = copy.deepcopy(like).to_empty(device=now.device).to(now.dtype)
        for name, part in self._modules.items():
            norm.add_module(name, copy.deepcopy(part))
        for name, value in (("weight", 1.0), ("bias", shift), ("running_mean", 0.0), ("running_var", 1 - norm.eps)):
            _set(norm, name, value)
        if norm.bias is None:
            _set(norm, "running_mean", -shift)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.zero_()
        trained = any(p.requires_grad for p in conv.batch_norms()[0].parameters())
        for parameter in norm.parameters(recurse=False):
            parameter.requires_grad_(trained)
        return norm.train(self.training)

    def extra_repr(self) -> str:
        """The batch norm for ``print``."""
        return type(self.before[0]).__name__


@torch.no_grad()
def _set(norm: nn.Module, name: str, value: Tensor | float) -> None:
    tensor = getattr(norm, name)
    if tensor is not None:
        tensor.copy_(value) if isinstance(value, Tensor) else tensor.fill_(value)


def pd_a(target: Target, branches: str | Sequence[str], layers: Layers) -> None:
    """Parallel branches, summed."""
    _put_branches(target, branch_names(branches), layers, None)


def pd_b(target: Target, branches: str | Sequence[str], reduction: int, layers: Layers) -> None:
    """Parallel branches, weighted by a gate that sees the input."""
    if isinstance(reduction, bool) or not isinstance(reduction, int) or reduction < 1:
        raise ZooError(f"pd_b: reduction divides the gate's hidden width: an integer from 1, not {reduction!r}.")
    _put_branches(target, branch_names(branches), layers, reduction)


def ac(target: Target, layers: Layers) -> None:
    """The published baseline of PD-A: a 3x3, a 3x1 and a 1x3 convolution."""
    _put_branches(target, AC_BRANCHES, layers, None)


def _put_branches(target: Target, branches: tuple[str, ...], layers: Layers, reduction: int | None) -> None:
    if "standard1" not in branches:
        raise ZooError(f"{target.kind}: the branch standard1 takes the kernel there is; add it to branches.")
    chosen = target.convs(layers)
    norm_of = target.flow.norm_of if chosen else {}
    modules = dict(target.model.named_modules())
    inside = {part for module in modules.values() if isinstance(module, PDAConv2d) for part in module.modules()}
    instead: dict[nn.Module, nn.Module] = {}
    for name, conv in chosen.items():
        if not target.plain(name, conv, "; branches come first, and their kernels can be made then"):
            continue
        norm = modules.get(norm_of.get(name))
        reason = "one of several branches already" if conv in inside else _unfit(conv, norm, target.flow, name)
        if reason:
            target.taken += [name] if conv in inside else []
            target.leave(name, conv, reason)
            continue
        new = _branched(target, conv, norm, branches, reduction)
        target.changed(name, conv, f"{len(branches)} branches" + (", gated" if reduction else ""))
        place = NormPlace(norm, new)
        new.norm_place = (place,)  # in a tuple, since it is no part of the layer
        instead |= {conv: _hooked(new, conv), norm: _hooked(place, norm)}
    replace_parts(target.model, instead)


def _unfit(conv: nn.Conv2d, norm: nn.Module | None, flow: Flow, name: str) -> str:
    """Why branches cannot take the place of a convolution; empty if they can."""
    if type(conv) is not nn.Conv2d:
        return f"a {type(conv).__name__}, which computes more than a convolution"
    looked_at = [conv._forward_hooks, conv._backward_hooks, conv._backward_pre_hooks]
    looked_at += [] if norm is None else [norm._forward_pre_hooks, norm._backward_hooks, norm._backward_pre_hooks]
    uses = flow.uses.get(name, 0)
    facts = (
        (conv.kernel_size == (3, 3), f"a kernel of {conv.kernel_size[0]} x {conv.kernel_size[1]}, not 3 x 3"),
        (conv.groups == 1, "depthwise" if conv.groups == conv.in_channels else f"{conv.groups} groups"),
        (conv.stride in ((1, 1), (2, 2)), f"stride {conv.stride}"),
        (conv.dilation == (1, 1), f"dilation {conv.dilation}"),
        (conv.padding == (1, 1) and conv.padding_mode == "zeros", f"padding {conv.padding} ({conv.padding_mode})"),
        (uses <= 1, f"used {uses} times"),
        (uses > 0, "not used by the network's forward"),
        (name not in flow.elsewhere, "its output or its kernel is read elsewhere too"),
        (norm is not None, "no batch norm behind it"),
        (not any(looked_at), "a hook sees what goes from it to its batch norm"),
    )
    if reason := next((reason for holds, reason in facts if not holds), ""):
        return reason
    if type(norm) not in _NORMS:
        return f"a {type(norm).__name__} behind it, not a batch norm"
    if norm.running_mean is None or norm.momentum is None or len(norm.running_mean) != conv.out_channels:
        return "a batch norm without running averages behind it"
    return ""


@torch.no_grad()
def _branched(
    target: Target, conv: nn.Conv2d, norm: nn.Module, branches: tuple[str, ...], reduction: int | None
) -> PDAConv2d:
    """Branches that compute what the convolution and its batch norm do, in eval and in train mode."""
    shape = (conv.in_channels, conv.out_channels, conv.stride[0], branches)
    weight = conv.weight
    with torch.device(weight.device):
        new = PDAConv2d(*shape) if reduction is None else PDBConv2d(*shape, reduction)
    new = new.to(weight.dtype)
    if isinstance(norm, nn.SyncBatchNorm):
        new = nn.SyncBatchNorm.convert_sync_batchnorm(new, norm.process_group)
    new.had_bias = conv.bias is not None
    own = new.branches["standard1"]
    for bn in new.batch_norms():
        bn.eps, bn.momentum = norm.eps, norm.momentum
        bn.to(norm.running_mean.dtype)  # of a network in half precision often float32
    if target.has_values(conv, norm):
        for other in new.batch_norms(*(name for name in branches if name != "standard1")) if len(branches) > 1 else ():
            nn.init.zeros_(other.weight)
        own.conv.weight.copy_(weight)
        own.bn.running_mean.copy_(norm.running_mean if conv.bias is None else norm.running_mean - conv.bias)
        own.bn.running_var.copy_(norm.running_var)
        if norm.affine:
            own.bn.weight.copy_(norm.weight)
            own.bn.bias.copy_(norm.bias)
        if isinstance(new, PDBConv2d):
            new.level_gate()
    new.requires_grad_(weight.requires_grad)
    for bn in new.batch_norms() if norm.affine else ():
        bn.requires_grad_(norm.weight.requires_grad)
    return new.train(norm.training)


def _hooked(new: nn.Module, old: nn.Module) -> nn.Module:
    """Hooks see the inputs and outputs of the layer in the place of theirs."""
    for key in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"):
        getattr(new, key).update(getattr(old, key))
    return new


KINDS = (
    Kind("pd_a", "parallel branches, summed, in place of a 3x3 convolution and its batch norm", pd_a,
         {"branches": BRANCHES, "layers": None}, "branches", "pd_a"),
    Kind("pd_b", "parallel branches weighted by a gate that sees the input", pd_b,
         {"branches": BRANCHES, "reduction": 16, "layers": None}, "branches", "pd_b"),
    Kind("ac", "a 3x3, a 3x1 and a 1x3 convolution with batch norms of their own, summed", ac,
         {"layers": None}, None, "ac"),
)  # fmt: skip
