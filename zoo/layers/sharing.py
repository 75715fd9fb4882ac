"""Soft parameter sharing for any CNN: template banks, shared convolutions, and finding them again in a network.

Paper: P. Savarese and M. Maire, "Learning Implicitly Recurrent CNNs Through Parameter Sharing", ICLR 2019,
https://arxiv.org/abs/1902.09701.

Exempt the coefficients from weight decay (:func:`coefficient_names`): decay on them and on the templates would shrink
their product twice.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ZooError
from ..makers.base import is_made, learned_of, make_weight, maker_of, own_parameter, plain_layer, set_learned
from ..makers.shared import SharedWeight


class TemplateBank(nn.Module):
    """T kernels that the layers of a group combine.

    Every layer that uses a bank has it as a submodule; in a state dict it stands once, under the first of these names
    (that of the network's attribute, if the network has one that comes before the layers).

    Args:
        num_templates: Number of templates T, at least 1.
        in_planes: Input channels of the layers (of one group, for grouped convolutions).
        out_planes: Output channels of the layers.
        kernel_size: Side of their kernels.

    Raises:
        ZooError: If there would be no template.
    """

    def __init__(self, num_templates: int, in_planes: int, out_planes: int, kernel_size: int):
        super().__init__()
        if not isinstance(num_templates, int) or num_templates < 1:
            raise ZooError(f"A template bank has an integer number of templates from 1, not {num_templates!r}.")
        sizes = {"in_planes": in_planes, "out_planes": out_planes, "kernel_size": kernel_size}
        if wrong := [name for name, size in sizes.items() if not isinstance(size, int) or size < 1]:
            raise ZooError(f"{wrong[0]} of a template bank is an integer from 1, not {sizes[wrong[0]]!r}.")
        self.in_planes, self.out_planes, self.kernel_size = in_planes, out_planes, kernel_size
        self._last_load: tuple[list, str] | None = None
        self.templates = nn.Parameter(torch.empty(num_templates, out_planes, in_planes, kernel_size, kernel_size))
        self.reset_parameters()

    @classmethod
    def holding(cls, templates: Tensor) -> "TemplateBank":
        """A bank of given templates, (T, *kernel) of any shape, which become its parameter."""
        bank = cls(1, 1, 1, 1)
        bank.templates = nn.Parameter(templates)
        if templates.dim() == 5:
            bank.out_planes, bank.in_planes, *sides = templates.shape[1:]
            bank.kernel_size = sides[0] if sides[0] == sides[1] else tuple(sides)
        return bank

    @property
    def num_templates(self) -> int:
        """T."""
        return len(self.templates)

    def reset_parameters(self) -> None:
        """Kaiming normal, fan-in, ReLU gain, for every template."""
        nn.init.normal_(self.templates, std=math.sqrt(2 / self.templates[0, 0].numel()))

    def forward(self, coefficients: Tensor) -> Tensor:
        """T coefficients of any shape -> the combined kernel (out_planes, in_planes, kernel_size, kernel_size)."""
        return (coefficients.flatten() @ self.templates.flatten(1)).view(self.templates.shape[1:])

    def fuse(self) -> nn.Module:
        """Nothing uses a bank once the layers have plain kernels."""
        return nn.Identity()

    def extra_repr(self) -> str:
        return f"{self.num_templates}, {self.in_planes}, {self.out_planes}, kernel_size={self.kernel_size}"

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        own = self.templates.untyped_storage()._cdata  # the same for the detached tensors that are in there already
        saved = (t for name, t in destination.items() if name.endswith("templates") and isinstance(t, Tensor))
        if not any(t.untyped_storage()._cdata == own for t in saved):
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, metadata: dict, strict: bool, missing: list, *rest):
        # load_state_dict comes here once for each name, always with its one list of missing keys.
        name = f"{prefix}templates"
        again = self._last_load is not None and self._last_load[0] is missing
        if not again:
            self._last_load = missing, name
        elif name not in state_dict:
            return
        elif self._last_load[1] in missing:
            missing.remove(self._last_load[1])
        elif not torch.equal(state_dict[name].to(self.templates), self.templates):
            rest[-1].append(f"{name} must repeat {self._last_load[1]}, the same bank, but differs from it.")
            return
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *rest)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        # Module.to(memory_format=torch.channels_last) applies the format to tensors of 5 axes too, which have no such
        # format, and fails.
        return super()._apply(
            lambda tensor: fn(tensor.flatten(2)).view(tensor.shape) if tensor.dim() == 5 else fn(tensor), recurse
        )


class SharedConv2d(nn.Conv2d):
    """A bias-free ``nn.Conv2d`` whose kernel is a combination of a bank's templates with T coefficients of its own.

    The coefficients start as a random unit vector, so that the kernel has the templates' variance;
    :meth:`SharingGroup.reset_parameters` makes those of a whole group orthogonal, as the paper does.

    Args:
        bank: Templates.
        stride: Stride.
        padding: Zero padding on all four sides.
    """

    def __init__(self, bank: TemplateBank, stride: int = 1, padding: int = 1):
        if not isinstance(bank, TemplateBank):
            raise ZooError(f"A SharedConv2d takes a TemplateBank, not a {type(bank).__name__}.")
        place = {"device": bank.templates.device, "dtype": bank.templates.dtype}
        super().__init__(bank.in_planes, bank.out_planes, bank.kernel_size, stride, padding, bias=False, **place)
        make_weight(self, SharedWeight(bank), start=F.normalize(torch.randn(bank.num_templates, **place), dim=0))

    def fuse(self) -> nn.Conv2d:
        """A new ``nn.Conv2d`` with the kernel of this moment; a subclass, which may compute more, stays one."""
        if not is_made(self):
            return self
        plain = plain_layer(self)
        if type(plain) is SharedConv2d:
            plain.__class__ = nn.Conv2d
        return plain


@dataclass(frozen=True)
class SharingGroup:
    """A bank and the layers that use it.

    Attributes:
        name: Name of the bank in the network.
        bank: The bank.
        convs: Its layers by name, in the network's order; L of them.
    """

    name: str
    bank: TemplateBank
    convs: dict[str, nn.Module]

    @property
    def coefficients(self) -> Tensor:
        """A copy of all layers' coefficients, (L, T)."""
        return torch.stack([learned_of(conv).detach() for conv in self.convs.values()])

    def reset_parameters(self) -> None:
        """Draw new templates and coefficients."""
        self.bank.reset_parameters()
        self.reset_coefficients()

    @torch.no_grad()
    def reset_coefficients(self) -> None:
        """Give the layers the rows of a random (L, T) matrix with orthonormal columns, or rows if L < T."""
        rows = torch.empty(len(self.convs), self.bank.num_templates, device=self.bank.templates.device)
        nn.init.orthogonal_(rows)
        for conv, row in zip(self.convs.values(), rows, strict=True):
            set_learned(conv, row)

    @torch.no_grad()
    def replace(self, templates: Tensor, coefficients: Tensor) -> None:
        """Give the group other templates (T', out, in, k, k) and coefficients (L, T'), cast to the present dtype."""
        old = self.bank.templates
        self.bank.templates = nn.Parameter(templates.detach().to(old, copy=True), old.requires_grad)
        for conv, row in zip(self.convs.values(), coefficients, strict=True):
            learned = learned_of(conv)
            conv.parametrizations["weight"].original = nn.Parameter(
                row.detach().to(learned, copy=True), learned.requires_grad
            )


def share_weights(convs: Sequence[nn.Conv2d], num_templates: int) -> TemplateBank:
    """Let ordinary convolutions of one shape share a new bank; they lose the kernels they have.

    Args:
        convs: The layers, in the order in which the rows of the coefficient matrix are given out.
        num_templates: T.

    Returns:
        The bank.

    Raises:
        ZooError: If the kernels differ in shape or are not square, a layer stands there twice, or has a maker already.
    """
    convs = list(convs)
    shapes = {tuple(own_parameter(conv).shape) for conv in convs}
    if len(shapes) != 1 or any(len(shape) != 4 or shape[2] != shape[3] for shape in shapes):
        raise ZooError(f"Layers can share templates only if all have one square kernel shape, not {sorted(shapes)}.")
    if len(set(convs)) < len(convs):
        raise ZooError("A layer stands twice among those that are to share templates: name each once.")
    ((out_planes, in_planes, size, _),) = shapes
    bank = TemplateBank(num_templates, in_planes, out_planes, size).to(convs[0].weight)
    for conv in convs:
        make_weight(conv, SharedWeight(bank), start=bank.templates.new_zeros(num_templates))
    SharingGroup("", bank, {str(i): conv for i, conv in enumerate(convs)}).reset_coefficients()
    return bank


def sharing_groups(model: nn.Module) -> list[SharingGroup]:
    """The banks of a network with the layers that use each, in the order of these layers."""
    names = {module: name for name, module in model.named_modules() if isinstance(module, TemplateBank)}
    groups: dict[TemplateBank, SharingGroup] = {}
    for name, module in model.named_modules():
        maker = maker_of(module) if is_made(module, "weight") else None
        if isinstance(maker, SharedWeight):
            group = groups.setdefault(maker.bank, SharingGroup(names[maker.bank], maker.bank, {}))
            group.convs[name] = module
    return list(groups.values())


def coefficient_names(model: nn.Module) -> set[str]:
    """Names of the coefficient parameters, which the authors' weight decay leaves out."""
    return {f"{name}.parametrizations.weight.original" for group in sharing_groups(model) for name in group.convs}


def name_banks(model: nn.Module, attribute: str) -> None:
    """Let an attribute that holds banks name them in the state dict, though the layers were there before it."""
    model._modules = {attribute: model._modules[attribute], **model._modules}
