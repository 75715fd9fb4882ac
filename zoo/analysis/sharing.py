"""Which layers of a softly shared network learned the same kernel, and smaller networks that follow from it.

Paper: P. Savarese and M. Maire, "Learning Implicitly Recurrent CNNs Through Parameter Sharing", ICLR 2019,
https://arxiv.org/abs/1902.09701. All of it works on any network with template banks: SWRN, SWRN-50-2, or one made of
:class:`zoo.layers.SharedConv2d`. Everything is computed in float64, and layers are compared within a bank only, since
coefficients for different templates have nothing to do with each other.
"""

import copy
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ZooError
from ..layers.sharing import SharingGroup, sharing_groups

# A cosine is flat at 1: vectors that are parallel but for float32 rounding miss 1 by about 1e-15, while 1 - 1e-6 would
# already admit an angle of 1.4e-3.
_MARGIN = 1e-12


@dataclass(frozen=True)
class Similarity:
    """The layer similarity matrix of one bank.

    Attributes:
        layers: Names of the L layers.
        matrix: (L, L), float64; |cosine| of the layers' coefficients, symmetric, with ones on the diagonal. A layer
            whose coefficients are all zero has similarity 0 with every other.
    """

    layers: tuple[str, ...]
    matrix: Tensor


@dataclass(frozen=True)
class RecurrentRun:
    """Consecutive blocks with the same kernels up to scalar factors, that is a loop of one body.

    Attributes:
        blocks: Names of the blocks; the loop runs as often as there are.
        layers: Names of the first block's shared layers, the body.
        scales: (number of blocks, number of layers), float64: by what each run multiplies the body's kernels, which are
            the clusters' representatives as in :func:`fold_layers`. Batch norms are each run's own.
    """

    blocks: tuple[str, ...]
    layers: tuple[str, ...]
    scales: Tensor


def layer_similarity(model: nn.Module) -> dict[str, Similarity]:
    """Layer similarity matrices ``S_ij = |<a_i, a_j>| / (||a_i|| ||a_j||)``, by name of the bank."""
    return {group.name: Similarity(tuple(group.convs), _cosines(_rows(group))) for group in sharing_groups(model)}


def coefficient_spectrum(model: nn.Module) -> dict[str, Tensor]:
    """Singular values of each bank's (L, T) coefficient matrix, descending, float64, by name of the bank."""
    return {group.name: torch.linalg.svdvals(_rows(group)) for group in sharing_groups(model)}


THRESHOLDS = (0.999, 0.99, 0.98, 0.95, 0.9, 0.8, 0.5, 0.1)
"""Similarities at which loops are looked for, when all of them are."""


def sharing_facts(model: nn.Module) -> dict[str, Any]:
    """What the layers of each bank share, as plain values.

    Returns:
        By name of the bank ``layers``, ``similarity`` (L, L) and ``spectrum``, the singular values of its coefficients;
        and ``loops``, the blocks of each of the :func:`recurrent_runs` by threshold, where there are any.
    """
    found = layer_similarity(model)
    loops = {str(at): [list(run.blocks) for run in recurrent_runs(model, at)] for at in THRESHOLDS} if found else {}
    return {
        "layers": {bank: list(similarity.layers) for bank, similarity in found.items()},
        "similarity": {bank: similarity.matrix.tolist() for bank, similarity in found.items()},
        "spectrum": {bank: values.tolist() for bank, values in coefficient_spectrum(model).items()},
        "loops": {at: runs for at, runs in loops.items() if runs},
    }


def cluster_layers(similarity: Tensor, threshold: float) -> list[list[int]]:
    """Complete-linkage clusters of a similarity matrix.

    Two clusters may merge only if every pair across them is at least ``threshold`` alike; the most similar ones merge
    first, among equals the first in order.

    Args:
        similarity: (L, L), symmetric.
        threshold: Above 0, up to 1.

    Returns:
        Indices of the layers of each cluster, in order of the first member.

    Raises:
        ZooError: If the threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise ZooError(f"The threshold of similarity is above 0 and at most 1, not {threshold!r}.")
    clusters = [[i] for i in range(len(similarity))]
    while len(clusters) > 1:
        links = {
            (first, second): min(similarity[i, j].item() for i in clusters[first] for j in clusters[second])
            for second in range(len(clusters))
            for first in range(second)
        }
        first, second = max(links, key=links.get)
        if links[first, second] < threshold * (1 - _MARGIN):
            break
        clusters[first] = sorted(clusters[first] + clusters.pop(second))
    return sorted(clusters)


def layer_clusters(model: nn.Module, threshold: float) -> dict[str, list[list[str]]]:
    """Names of the layers that :func:`fold_layers` would tie, by name of the bank; every layer is in one cluster."""
    return {
        bank: [[found.layers[i] for i in cluster] for cluster in cluster_layers(found.matrix, threshold)]
        for bank, found in layer_similarity(model).items()
    }


def recurrent_runs(model: nn.Module, threshold: float) -> list[RecurrentRun]:
    """Find the loops: maximal runs of consecutive blocks whose layers, one by one, fall into the same clusters.

    A block is a module with convolutions as its children. It can be a body if all convolutions in it are of this kind,
    shared, and with coefficients that are not all zero. Consecutive blocks are neighbours in one container.

    Args:
        model: Network with template banks.
        threshold: As in :func:`fold_layers`.

    Returns:
        The runs of at least two blocks, in the network's order.
    """
    kernel_of: dict[str, tuple[str, int]] = {}
    scale_of: dict[str, float] = {}
    for group in sharing_groups(model):
        rows, layers = _rows(group), list(group.convs)
        for k, (cluster, direction) in enumerate(_folds(rows, threshold)):
            kernel_of.update({layers[i]: (group.name, k) for i in cluster})
            scale_of.update({layers[i]: (rows[i] @ direction).item() for i in cluster})

    def body(prefix: str, block: nn.Module) -> tuple:
        convs = {f"{prefix}.{name}": m for name, m in block.named_children() if isinstance(m, nn.Conv2d)}
        count = sum(isinstance(m, nn.Conv2d) for m in block.modules())
        if not convs or len(convs) < count or not convs.keys() <= kernel_of.keys():
            return (prefix,)  # like no other block
        return tuple((kernel_of[name], m.stride, m.padding, m.dilation) for name, m in convs.items())

    runs = []
    for path, container in model.named_modules():
        children = [(f"{path}.{name}" if path else name, child) for name, child in container.named_children()]
        for _, run in itertools.groupby(children, lambda child: body(*child)):
            blocks = [[f"{prefix}.{n}" for n, m in b.named_children() if isinstance(m, nn.Conv2d)] for prefix, b in run]
            if len(blocks) > 1:
                scales = torch.tensor([[scale_of[name] for name in layers] for layers in blocks], dtype=torch.float64)
                runs.append(RecurrentRun(tuple(b[0].rpartition(".")[0] for b in blocks), tuple(blocks[0]), scales))
    return runs


@torch.no_grad()
def fold_layers(model: nn.Module, threshold: float) -> nn.Module:
    """Tie the layers that learned similar kernels.

    The coefficients of the layers in a cluster become (signed scale) * (unit representative): the representative is the
    leading left singular vector of the matrix whose columns are the cluster's coefficients, signed so that the first
    member's scale is positive, and the scale is a layer's inner product with it. Layers whose coefficients are all zero
    stay so. If this leaves fewer different kernels than templates, the kernels become the templates, and its scale is
    a layer's only non-zero coefficient.

    Args:
        model: Network with template banks.
        threshold: Similarity from which layers are tied, above 0. At 1 only proportional coefficients are, and the
            function stays the same but for rounding; otherwise measure the accuracy again.

    Returns:
        A new network.

    Raises:
        ZooError: If the threshold is out of range, or the network has no template bank.
    """
    folded, groups = _copy(model)
    for group in groups:
        rows = _rows(group)
        folds = _folds(rows, threshold)
        if not folds:
            continue
        directions = torch.stack([direction for _, direction in folds])
        scales = rows.new_zeros(len(rows), len(folds))
        for k, (cluster, direction) in enumerate(folds):
            scales[cluster, k] = rows[cluster] @ direction
        if len(folds) < group.bank.num_templates:
            group.replace(_combine(directions, group.bank.templates), scales)
        else:
            group.replace(group.bank.templates, scales @ directions)
    return _with_sizes(folded)


@torch.no_grad()
def compress_banks(model: nn.Module, rank: int | None = None) -> nn.Module:
    """Replace the templates of every bank by fewer, through a truncated singular value decomposition.

    With the coefficients of all layers as the rows of ``A = U D V^T`` (L, T), new template q is
    ``sum_t V[t, q] B_t`` and the new coefficients of layer i are ``U[i, q] D[q]``.

    Args:
        model: Network with template banks.
        rank: Templates per bank that remain, where there are more; None for the rank of A, which loses nothing.

    Returns:
        A new network.

    Raises:
        ZooError: If the rank is not a positive integer, or the network has no template bank.
    """
    if rank is not None and (not isinstance(rank, int) or rank < 1):
        raise ZooError(f"The rank is an integer from 1, or None for a lossless one, not {rank!r}.")
    compressed, groups = _copy(model)
    for group in groups:
        rows = _rows(group)
        left, values, right = torch.linalg.svd(rows, full_matrices=False)
        rounding = max(rows.shape) * torch.finfo(group.bank.templates.dtype).eps
        lossless = max(1, int((values > rounding * values[0]).sum()))
        keep = lossless if rank is None else min(rank, len(values))
        if keep < group.bank.num_templates:
            group.replace(_combine(right[:keep], group.bank.templates), left[:, :keep] * values[:keep])
    return _with_sizes(compressed)


def _rows(group: SharingGroup) -> Tensor:
    return group.coefficients.double()


def _cosines(rows: Tensor) -> Tensor:
    lengths = rows.norm(dim=1, keepdim=True)
    units = rows / torch.where(lengths == 0, torch.ones_like(lengths), lengths)
    return (units @ units.T).abs().clamp(max=1).fill_diagonal_(1)


def _folds(rows: Tensor, threshold: float) -> list[tuple[list[int], Tensor]]:
    """Clusters of the non-zero rows (L, T), each with its unit representative (T,)."""
    clusters = [cluster for cluster in cluster_layers(_cosines(rows), threshold) if rows[cluster].any()]
    return [(cluster, _representative(rows[cluster])) for cluster in clusters]


def _representative(rows: Tensor) -> Tensor:
    direction = torch.linalg.svd(rows.T, full_matrices=False).U[:, 0]
    return -direction if rows[0] @ direction < 0 else direction


def _combine(weights: Tensor, templates: Tensor) -> Tensor:
    """Weights (T', T) and templates (T, *kernel) -> (T', *kernel), float64."""
    return (weights @ templates.detach().flatten(1).double()).unflatten(1, templates.shape[1:])


def _copy(model: nn.Module) -> tuple[nn.Module, list[SharingGroup]]:
    copied = copy.deepcopy(model)
    groups = sharing_groups(copied)
    if not groups:
        raise ZooError(f"This {type(model).__name__} has no template bank; a reparameterized network has lost its own.")
    return copied, groups


def _with_sizes(model: nn.Module) -> nn.Module:
    """Correct the arguments that timm saves beside the weights: the banks are built anew from them."""
    if hasattr(model, "_model_args") and hasattr(model, "banks"):
        sizes = [group.bank.num_templates for group in sharing_groups(model)]
        model._model_args = {**model._model_args, "bank_size": sizes}
    return model
