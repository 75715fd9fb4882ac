"""The ParaDise convolutions: parallel branches that fold into one 3x3 convolution, summed (A) or gated (B).

Paper: X. Ma et al., "ParaDise: Parameter Disentanglement for Neural Networks", 2020; published as "Parameter
Disentanglement for Diverse Representations", Big Data Mining and Analytics 8(3), 2025,
doi 10.26599/BDMA.2024.9020087. Each branch ends in batch norms of its own, which need the statistics of their own
batch; so a PD convolution is a layer and not a maker of one kernel.
"""

import copy
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UnknownNameError, ZooError
from ..makers.hooks import copy_of
from ..precision import full_precision, same_format
from .branch import ConvBranch, SkeletonBranch, make_branch
from .stacked import can_stack, is_eager, pays, stacked_conv_bn

BRANCHES = ("standard1", "standard2", "skeleton", "group")
"""Names of the branches, in the order of the gate."""

AC_BRANCHES = ("standard1", "skeleton")

_CACHE = 16 * 2**20  # bytes of kernels that a CPU keeps at hand


def branch_names(branches: str | Sequence[str]) -> tuple[str, ...]:
    """Check names of branches and bring them into the order of the gate.

    Args:
        branches: Names, as a sequence or separated by commas.

    Raises:
        ZooError: If there is none, an unknown one, or one twice.
    """
    names = [name.strip() for name in branches.split(",")] if isinstance(branches, str) else list(branches or ())
    unknown = [str(name) for name in names if name not in BRANCHES]
    if unknown:
        raise UnknownNameError(f"Unknown branch {', '.join(unknown)}: choose from {', '.join(BRANCHES)}.")
    if not names or len(set(names)) != len(names):
        raise ZooError(f"branches {names} must name at least one of {', '.join(BRANCHES)}, and none twice.")
    return tuple(name for name in BRANCHES if name in names)


class PDAConv2d(nn.Module):
    """PD-A: the sum of its branches, in place of a 3x3 convolution and its batch norm.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        stride: Stride.
        branches: Names out of :data:`BRANCHES`. The group branch has 64 groups, or as many as divide both widths.

    Raises:
        ZooError: If a branch does not exist, or the stride is neither 1 nor 2: the third argument is no kernel size.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, branches: str | Sequence[str] = BRANCHES):
        super().__init__()
        if stride not in (1, 2, (1, 1), (2, 2)):
            raise ZooError(
                f"The stride of a {type(self).__name__}, whose kernel is always 3x3, is 1 or 2, not {stride!r}."
            )
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        names = branch_names(branches)
        self.branches = nn.ModuleDict({name: make_branch(name, in_channels, out_channels, stride) for name in names})

    norm_place: tuple[nn.Module, ...] = ()  # what zoo.transform put in place of the batch norm behind the convolution
    had_bias = False

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / stride, width / stride)."""
        if self._stacks(x):
            return stacked_conv_bn(x, self._pairs())
        first, *others = self.branches.values()
        y = first(x)
        for branch in others:
            y = y + branch(x)
        return y

    def _stacks(self, x: Tensor) -> bool:
        """Whether the branches are computed as one convolution; else each by itself, which any change of one needs."""
        if not pays(x) or any(type(branch) not in (ConvBranch, SkeletonBranch) for branch in self.branches.values()):
            return False
        return can_stack([m for branch in self.branches.values() for m in branch.modules()], self._pairs())

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Each convolution with its batch norm."""
        return [(m.conv, m.bn) for m in self.branches.modules() if type(m) is ConvBranch]

    def batch_norms(self, *names: str) -> list[_BatchNorm]:
        """The batch norms of the named branches, or of all; synchronised ones too."""
        chosen = [self.branches[name] for name in names or self.branches]
        return [m for branch in chosen for m in branch.modules() if isinstance(m, _BatchNorm)]

    def fold(self) -> tuple[Tensor, Tensor]:
        """Dense kernels (branches, out, in, 3, 3) and biases (branches, out) of the branches in eval mode, float64."""
        kernels, biases = zip(*(branch.fold() for branch in self.branches.values()), strict=True)
        return torch.stack(kernels), torch.stack(biases)

    def fuse(self, batch_norm: str = "fold", network: Collection[nn.Module] = ()) -> nn.Module:
        """One 3x3 ``nn.Conv2d`` with bias: the same function in eval mode.

        Args:
            batch_norm: ``keep`` has an effect where ``zoo.transform`` put the layer in place of a convolution and its
                batch norm: both come back, the batch norm with the shift, and the convolution's bias is 0 or none.
            network: The parts of the network that collapses. Where the place of the batch norm is none of them, since
                the layer was cut out, the shift stays with the convolution.
        """
        kernels, biases = self.fold()
        conv = self._in_mode_of_branches(_conv(kernels.sum(0), biases.sum(0), self.stride, self._kernel()))
        if batch_norm == "keep" and self.gives_shift(network):
            conv.bias = nn.Parameter(torch.zeros_like(conv.bias), conv.bias.requires_grad) if self.had_bias else None
        return conv

    def gives_shift(self, network: Collection[nn.Module]) -> bool:
        """Whether the batch norm behind it takes the shift: it collapses too, and no hook sees what is between."""
        places = [place for place in self.norm_place if place in network and not place._forward_pre_hooks]
        return bool(places) and not self._forward_hooks

    def _kernel(self) -> Tensor:
        """A learned kernel, the widest there is, since one with a side or group of 1 has no memory format."""
        return max((m.weight for m in self.branches.modules() if isinstance(m, nn.Conv2d)), key=Tensor.numel)

    def _in_mode_of_branches(self, fused: nn.Module) -> nn.Module:
        fused.weight.requires_grad_(any(p.requires_grad for p in self.branches.parameters() if p.dim() > 1))
        fused.bias.requires_grad_(any(p.requires_grad for p in self.branches.parameters() if p.dim() == 1))
        return fused.train(self.training)


class ACConv2d(PDAConv2d):
    """AC, the published baseline of PD-A: a 3x3, a 3x1 and a 1x3 convolution, each with its batch norm, summed.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        stride: Stride.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(in_channels, out_channels, stride, AC_BRANCHES)


class BranchGate(nn.Module):
    """One weight per sample and branch, from the input's channel means.

    Args:
        in_channels: Channels of the input.
        branches: Number of branches.
        reduction: ``in_channels`` over the hidden width.
    """

    def __init__(self, in_channels: int, branches: int, reduction: int = 16):
        super().__init__()
        if not isinstance(reduction, int) or reduction < 1:
            raise ZooError(f"reduction divides the gate's hidden width: an integer from 1, not {reduction!r}.")
        hidden = max(1, in_channels // reduction)
        self.fc1 = nn.Linear(in_channels, hidden)
        self.fc2 = nn.Linear(hidden, branches)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, branches), each row sums to 1."""
        return self.fc2(F.relu(self.fc1(x.mean((2, 3))))).softmax(1)


class PDBConv2d(PDAConv2d):
    """PD-B: the sum of its branches weighted by a gate that sees the input.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        stride: Stride.
        branches: Names out of :data:`BRANCHES`.
        reduction: Divides ``in_channels`` for the gate's hidden width; 16 gives the published parameter counts.

    Raises:
        ZooError: If a branch does not exist.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        branches: str | Sequence[str] = BRANCHES,
        reduction: int = 16,
    ):
        super().__init__(in_channels, out_channels, stride, branches)
        self.gate = BranchGate(in_channels, len(self.branches), reduction)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height / stride, width / stride)."""
        gates = self.gate(x)
        if self._stacks(x):
            widths = [2 if type(branch) is SkeletonBranch else 1 for branch in self.branches.values()]
            gates = torch.cat([g.expand(-1, n) for g, n in zip(gates.split(1, 1), widths, strict=True)], 1)
            return stacked_conv_bn(x, self._pairs(), gates)
        weighted = [gates[:, i, None, None, None] * branch(x) for i, branch in enumerate(self.branches.values())]
        y = weighted[0]
        for term in weighted[1:]:
            y = y + term
        return y

    @torch.no_grad()
    def level_gate(self) -> None:
        """Make every gate 1 / branches and scale the branches up as much, so that the layer is its own PD-A."""
        nn.init.zeros_(self.gate.fc2.weight)
        nn.init.zeros_(self.gate.fc2.bias)
        for bn in self.batch_norms():
            bn.weight.mul_(len(self.branches))
            bn.bias.mul_(len(self.branches))

    def fuse(self, batch_norm: str = "fold") -> "MixedConv2d":
        """The same function in eval mode, with one plain kernel per branch; no batch norm can take its biases."""
        kernels, biases = self.fold()
        like = self.gate.fc1.weight
        mixed = MixedConv2d(kernels.to(like), biases.to(like), self.stride, copy.deepcopy(self.gate))
        return self._in_mode_of_branches(mixed)

    def approximate(self, gates: Tensor) -> nn.Conv2d:
        """The 3x3 convolution that every input with these gates, (branches,), would get."""
        kernels, biases = self.fold()
        return _weighted_conv(kernels, biases, gates, self.stride, self.gate.fc1.weight)


class MixedConv2d(nn.Module):
    """What is left of PD-B after folding: a kernel and a bias for each sample, mixed by the gate.

    Args:
        kernels: Kernels, (branches, out, in, 3, 3).
        biases: Biases, (branches, out).
        stride: Stride.
        gate: Module that maps the input to (batch, branches).

    Attributes:
        weight: The kernels as (branches, out, in * 9): torch cannot make a five-dimensional parameter channels-last.
        bias: The biases.
    """

    def __init__(self, kernels: Tensor, biases: Tensor, stride: int, gate: nn.Module):
        super().__init__()
        self.in_channels, self.out_channels, self.stride = kernels.shape[2], kernels.shape[1], stride
        self.weight = nn.Parameter(kernels.flatten(2))
        self.bias = nn.Parameter(biases)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, height, width) -> (batch, out, height / stride, width / stride).

        Each image meets its own kernel, as a group of one convolution. On a CPU the kernels are mixed and used in parts
        that stay in its cache: those of a whole batch may be larger than a network, and memory is slow.
        """
        gates = self.gate(x)
        if torch.onnx.is_in_onnx_export() or torch.jit.is_tracing():
            return self._mix_outputs(x, gates)
        images, outputs = self._part(x)
        if not images:
            return self._mix_kernels(x, gates, self.weight, self.bias)
        if images < len(x):
            parts = zip(x.split(images), gates.split(images), strict=True)
            return torch.cat([self._mix_kernels(*part, self.weight, self.bias) for part in parts])
        parts = zip(self.weight.split(outputs, 1), self.bias.split(outputs, 1), strict=True)
        return torch.cat([self._mix_kernels(x, gates, *part) for part in parts], 1)

    def _mix_kernels(self, x: Tensor, gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        kernels = (gates @ weight.flatten(1)).reshape(-1, self.in_channels, 3, 3)
        biases = (gates @ bias).flatten()
        y = F.conv2d(x.reshape(1, batch * channels, height, width), kernels, biases, self.stride, 1, groups=batch)
        return y.reshape(batch, bias.shape[1], y.shape[2], y.shape[3])

    def _part(self, x: Tensor) -> tuple[int, int]:
        """How many images and output channels at a time; (0, 0) for all at once.

        Mixing outputs instead of kernels is four convolutions, and was the slower form at every size measured.
        """
        kernel = self.weight[0].numel() * self.weight.element_size()
        if not (is_eager(x) and x.device.type == "cpu") or kernel * len(x) <= _CACHE:
            return 0, 0
        if kernel * len(self.weight) <= _CACHE:  # each part reads them again
            return max(1, _CACHE // 4 // kernel), self.out_channels
        return len(x), max(1, self.out_channels * _CACHE // (kernel * len(x)))

    def _mix_outputs(self, x: Tensor, gates: Tensor) -> Tensor:
        """The same sum after the convolutions, for files and traces, which fix the groups and so the batch."""
        kernels = self.weight.reshape(-1, self.in_channels, 3, 3)
        y = F.conv2d(x, kernels, self.bias.flatten(), self.stride, 1).unflatten(1, (-1, self.out_channels))
        return (y * gates[:, :, None, None, None]).sum(1)

    def approximate(self, gates: Tensor) -> nn.Conv2d:
        """As :meth:`PDBConv2d.approximate`."""
        kernels = self.weight.detach().double().unflatten(2, (self.in_channels, 3, 3))
        return _weighted_conv(kernels, self.bias.detach().double(), gates, self.stride, self.bias)

    def extra_repr(self) -> str:
        """Shape for ``print``."""
        branches = len(self.weight)
        return f"{self.in_channels}, {self.out_channels}, kernel_size=(3, 3), stride={self.stride}, branches={branches}"


def _weighted_conv(kernels: Tensor, biases: Tensor, gates: Tensor, stride: int, like: Tensor) -> nn.Conv2d:
    gates = gates.to(kernels)
    return _conv(torch.tensordot(gates, kernels, 1), gates @ biases, stride, like)


@full_precision()
def _conv(kernel: Tensor, bias: Tensor, stride: int, like: Tensor) -> nn.Conv2d:
    """A 3x3 convolution of these tensors in the type, and on the device, of ``like``."""
    out_channels, in_channels = kernel.shape[:2]
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, device="meta")
    conv.weight = nn.Parameter(same_format(kernel.to(like), like))
    conv.bias = nn.Parameter(bias.to(like))
    return conv


@full_precision()
def approximate_static(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of a PD-B network whose gates are frozen at their mean over some images: approximate, not exact.

    Args:
        model: Network with :class:`PDBConv2d` or :class:`MixedConv2d` layers.
        batches: Batches of calibration images, on the network's device.

    Returns:
        A copy in eval mode, in which each of those layers is a 3x3 ``nn.Conv2d`` with bias.

    Raises:
        ZooError: If there is no such layer or no image.
    """
    model = copy_of(model).eval()
    layers = {name: m for name, m in model.named_modules() if isinstance(m, PDBConv2d | MixedConv2d)}
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.gate.register_forward_hook(lambda _, __, gates, name=name: seen[name].append(gates.double()))
        for name, layer in layers.items()
    ]
    for images in batches if layers else ():
        model(images)
    for hook in hooks:
        hook.remove()
    if not seen or not all(seen.values()):
        raise ZooError("A static approximation needs a PD-B network and at least one batch of calibration images.")
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.approximate(torch.cat(seen[name]).mean(0)))
    return model.eval()
