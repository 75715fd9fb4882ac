"""Kinds that make the kernel of a layer: shared, symmetric, sparse, tied, of low rank."""

import math

import torch
from torch import Tensor, nn

from ..errors import ZooError
from ..layers.masked_bank import MaskedTemplateBank
from ..layers.sharing import SharingGroup, TemplateBank
from ..makers.base import is_made, learned_of, make_weight, maker_of
from ..makers.lowrank import LowRankSymmetric, LowRankWeight, leading_factors, rank_of
from ..makers.masked import MaskedWeight, check_sparsity, check_unit, entries_on, mask_shape
from ..makers.shared import ReusedWeight, SharedWeight
from ..makers.sparse import erk_counts
from ..makers.symmetric import SymmetricWeight, check_type, symmetric_maker
from ..makers.tied import TIED_UNITS, TiedWeight
from ..reparam.walk import replace_parts
from .kinds import Kind
from .target import Target

Layers = str | tuple[str, ...] | None


def share(target: Target, templates: int, layers: Layers) -> None:
    """Kernels of one shape become combinations of common templates: the leading ones of an SVD, or all."""
    if isinstance(templates, bool) or not isinstance(templates, int) or templates < 1:
        raise ZooError(f"share: templates is an integer from 1, not {templates!r}.")
    groups: dict[tuple, dict[str, nn.Conv2d]] = {}
    for name, conv in target.convs(layers).items():
        if target.plain(name, conv):
            key = (*conv.weight.shape, conv.groups, conv.weight.dtype, conv.weight.device)
            groups.setdefault(key, {})[name] = conv
    for number, group in enumerate(groups.values(), 1):
        if len(group) == 1:
            ((name, conv),) = group.items()
            target.leave(name, conv, "no other layer has a kernel of this shape")
            continue
        count = min(templates, len(group))
        kernels = {name: conv.weight.detach().clone() for name, conv in group.items()}
        bank, coefficients = _bank(target, list(group.values()), count)
        bank.requires_grad_(target.learned_by(group))
        for (name, conv), row in zip(group.items(), coefficients, strict=True):
            make_weight(conv, SharedWeight(bank), start=row)
            target.changed(name, conv, f"group {number}: {count} templates for {len(group)} layers", kernels[name])
        if target.fresh and target.has_values(bank):
            SharingGroup("", bank, group).reset_parameters()


@torch.no_grad()
def _bank(target: Target, convs: list[nn.Conv2d], count: int) -> tuple[TemplateBank, Tensor]:
    """A bank of ``count`` templates and the coefficients (L, count) that come closest to the layers' kernels."""
    weight = convs[0].weight
    if not target.has_values(*convs):
        return TemplateBank.holding(weight.new_empty(count, *weight.shape)), weight.new_empty(len(convs), count)
    kernels = torch.stack([conv.weight.detach() for conv in convs])
    if count == len(convs):  # exact: every layer has its own
        return TemplateBank.holding(kernels), torch.eye(count, dtype=weight.dtype, device=weight.device)
    left, right = leading_factors(kernels.flatten(1).double(), count)
    templates = right.to(weight.dtype).view(count, *weight.shape)
    return TemplateBank.holding(templates.contiguous()), left.to(weight.dtype).contiguous()


def symmetrize(target: Target, symm_type: str, rank: int | str | None, layers: Layers) -> None:
    """Kernels become the nearest symmetric ones."""
    check_type(symm_type)
    if rank is not None and symm_type != "pdpt":
        raise ZooError(f"symmetrize: rank belongs to the symmetry type 'pdpt' only, not to {symm_type!r}.")
    for name, conv in target.convs(layers).items():
        if not target.plain(name, conv):
            continue
        shape = tuple(conv.weight.shape)
        try:
            with torch.device("cpu"):
                maker = symmetric_maker(shape, symm_type, rank=rank)
        except ZooError as error:
            target.leave(name, conv, _reason(error))
            continue
        if isinstance(maker, SymmetricWeight) and math.prod(maker.stored) == math.prod(shape):
            target.leave(name, conv, f"every kernel of shape {shape} has this symmetry")
            continue
        before = conv.weight.detach().clone()
        target.put(conv, maker)
        if target.fresh and target.has_values(conv) and isinstance(maker, SymmetricWeight):
            learned_of(conv).data.copy_(maker.select(before))  # a mean of random entries would lose their variance
        target.changed(name, conv, f"{symm_type}: {learned_of(conv).numel():,} of {math.prod(shape):,} stored", before)


def sparsify(target: Target, sparsity: float, unit: str, density: str, layers: Layers) -> None:
    """The weights of smallest magnitude go; of a made kernel, those it is made from."""
    check_sparsity(sparsity)
    check_unit(unit)
    if density not in ("uniform", "erk"):
        raise ZooError(f"sparsify: density is 'uniform' or 'erk', not {density!r}.")
    plain: dict[str, nn.Module] = {}
    banks: dict[TemplateBank, list[str]] = {}
    for name, conv in target.convs(layers).items():
        maker = maker_of(conv) if is_made(conv) else None
        if isinstance(maker, SharedWeight | ReusedWeight) and type(maker.bank) is TemplateBank:
            banks.setdefault(maker.bank, []).append(name)
        elif maker is None and conv.groups == conv.in_channels and conv.groups > 1:
            target.leave(name, conv, "depthwise: few weights, each of which matters")
        elif maker is None or isinstance(maker, SymmetricWeight | LowRankSymmetric | LowRankWeight | TiedWeight):
            plain[name] = conv
        else:
            target.plain(name, conv)
    made = [name for name, conv in plain.items() if is_made(conv)] + [
        name for names in banks.values() for name in names
    ]
    if made and (unit != "weight" or density != "uniform"):
        raise ZooError(
            f"sparsify: what {made[0]} is made from has no {unit if unit != 'weight' else 'share by its kernel'}: take "
            "unit=weight and density=uniform on kernels that are shared, symmetric, tied or of low rank."
        )
    shapes = {name: tuple(learned_of(conv).shape) for name, conv in plain.items()}
    counts = {name: entries_on(math.prod(mask_shape(shape, unit)), sparsity) for name, shape in shapes.items()}
    if density == "erk" and shapes:
        counts = erk_counts(shapes, dict.fromkeys(shapes, sparsity), unit)
    for name, conv in plain.items():
        if not counts[name]:
            target.leave(name, conv, f"sparsity {sparsity} would leave nothing of it")
            continue
        before = conv.weight.detach().clone()
        maker = _mask(target, conv, shapes[name], unit, counts[name])
        total = math.prod(shapes[name])
        target.changed(name, conv, f"{counts[name] * maker.weights_per_entry:,} of {total:,} weights", before)
    for bank, names in banks.items():
        _sparsify_bank(target, bank, names, sparsity)


def _mask(target: Target, layer: nn.Module, shape: tuple[int, ...], unit: str, on: int) -> MaskedWeight:
    """Put a mask on what a layer learns: its kernel, or what its kernel is made from."""
    learned = learned_of(layer)
    with torch.device(learned.device):
        maker = MaskedWeight(shape, unit=unit, on=on)
    if is_made(layer):
        layer.parametrizations.weight.insert(0, maker.train(layer.training))
    else:
        target.put(layer, maker)
    if target.has_values(layer):
        maker.keep_largest_(learned_of(layer), on)
    return maker


def _sparsify_bank(target: Target, bank: TemplateBank, names: list[str], sparsity: float) -> None:
    layers = [target.model.get_submodule(name) for name in names]
    before = [layer.weight.detach().clone() for layer in layers]
    rows, size = bank.num_templates, math.prod(bank.templates.shape[1:])
    on = entries_on(rows * size, sparsity)
    if not on:
        for name, layer in zip(names, layers, strict=True):
            target.leave(name, layer, f"sparsity {sparsity} would leave nothing of its templates")
        return
    with torch.device(bank.templates.device):
        maker = MaskedWeight((rows, size), on=on)
    masked = MaskedTemplateBank(bank, maker)
    if target.has_values(bank):
        maker.keep_largest_(learned_of(masked.kernels), on)
    replace_parts(target.model, {bank: masked.train(bank.training)})
    for name, layer, kernel in zip(names, layers, before, strict=True):
        target.changed(name, layer, f"{on:,} of {rows * size:,} weights of {rows} templates", kernel)


def tie(target: Target, sparsity: float, unit: str, layers: Layers) -> None:
    """Each kernel is made from a short bank of its own, whose entries serve at many places."""
    check_sparsity(sparsity)
    if unit not in TIED_UNITS:
        raise ZooError(f"tie: unit is {' or '.join(TIED_UNITS)}, not {unit!r}.")
    for name, conv in target.convs(layers).items():
        if not target.plain(name, conv):
            continue
        try:
            with torch.device(conv.weight.device):
                maker = TiedWeight(conv.weight.shape, sparsity, unit)
        except ZooError as error:
            target.leave(name, conv, _reason(error))
            continue
        before = conv.weight.detach().clone()
        target.put(conv, maker)
        _keep_size(target, conv, before)
        target.changed(name, conv, f"{maker.rows:,} entries for {maker.index.numel():,} places", before)


def lowrank(target: Target, rank: int | float, layers: Layers) -> None:
    """Each kernel, as a matrix (out, in * rows * columns), becomes the product of two factors."""
    rank_of((1, 1), rank)  # it exists
    for name, conv in target.convs(layers).items():
        if not target.plain(name, conv):
            continue
        maker = LowRankWeight(conv.weight.shape, rank)
        if maker.rank * sum(maker.sides) >= math.prod(maker.sides):
            target.leave(name, conv, f"rank {maker.rank} of a {maker.sides[0]} x {maker.sides[1]} matrix saves nothing")
            continue
        before = conv.weight.detach().clone()
        target.put(conv, maker)
        _keep_size(target, conv, before, factors=2)
        target.changed(name, conv, f"rank {maker.rank} of {min(maker.sides)}", before)


@torch.no_grad()
def _keep_size(target: Target, conv: nn.Conv2d, before: Tensor, factors: int = 1) -> None:
    """Of random kernels the nearest ones are smaller: what is learned grows until they have the norm there was."""
    if target.fresh and target.has_values(conv) and (norm := conv.weight.norm()) > 0:
        learned_of(conv).mul_((before.norm() / norm) ** (1 / factors))


def _reason(error: ZooError) -> str:
    return str(error).rstrip(".").split(":")[0]


KINDS = (
    Kind("share", "kernels of one shape are combinations of common templates", share, {"templates": 2, "layers": None},
         "templates", "share:templates=2"),
    Kind("symmetrize", "part of each kernel is learned, the rest mirrored", symmetrize,
         {"symm_type": "tri", "rank": None, "layers": None}, "symm_type", "symmetrize:tri"),
    Kind("sparsify", "few weights of each kernel are not zero, and may move in training", sparsify,
         {"sparsity": ..., "unit": "weight", "density": "uniform", "layers": None}, "sparsity", "sparsify:0.9"),
    Kind("tie", "the entries of a short bank serve at many places of the kernel", tie,
         {"sparsity": ..., "unit": "weight", "layers": None}, "sparsity", "tie:0.5"),
    Kind("lowrank", "each kernel is the product of two factors", lowrank, {"rank": ..., "layers": None},
         "rank", "lowrank:0.25"),
)  # fmt: skip
