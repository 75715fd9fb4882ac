"""Making layers and whole networks sparse or tied, and how many weights each layer gets.

Which weights are on can then move in training: ``zoo.sparsity``.
"""

import math
from collections.abc import Mapping, Sequence

from torch import nn

from ..errors import ZooError
from .base import is_made, label_of, make_weight, maker_of, own_parameter
from .masked import MaskedWeight, check_sparsity, check_unit, entries_on, mask_shape
from .tied import TiedWeight

_CONVOLUTIONS = nn.modules.conv._ConvNd


def make_sparse(module: nn.Module, sparsity: float, unit: str = "weight", density: str = "uniform") -> nn.Module:
    """Give a layer, or every convolution of a network, a mask drawn at random; in place.

    Args:
        module: A layer with a parameter ``weight``; or a network, of which linear layers stay as they are.
        sparsity: Share of weights that are off, from 0 (masks that are all ones) to below 1.
        unit: What a mask entry switches: ``weight``, ``row``, ``kernel`` or ``filter``.
        density: Of a network ``uniform``, or ``erk`` for as many weights in all, spread as :func:`erk_counts` says.

    Returns:
        ``module``.

    Raises:
        ZooError: If an argument has no meaning, the network has no convolution, or a weight is made already; nothing
            is changed then.
    """
    layers = _layers(module)
    put_masks(layers, dict.fromkeys(layers, sparsity), unit, density)
    return module


def make_tied(module: nn.Module, sparsity: float, unit: str = "weight") -> nn.Module:
    """As :func:`make_sparse`, with tied weights: a layer's bank has the share 1 - ``sparsity`` of its entries.

    Args:
        module: A layer or a network.
        sparsity: Share of the entries that the bank does not have.
        unit: ``weight`` or ``kernel``.

    Returns:
        ``module``.

    Raises:
        ZooError: As :func:`make_sparse`.
    """
    makers = [(layer, TiedWeight(own_parameter(layer).shape, sparsity, unit)) for layer in _layers(module).values()]
    for layer, maker in makers:
        make_weight(layer, maker.to(layer.weight.device))
    return module


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    own_layer = not isinstance(module, nn.Module) or "weight" in {**module._parameters, **vars(module)}
    if own_layer or isinstance(module, _CONVOLUTIONS):  # of which own_parameter says what is wrong
        return {"": module}
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, _CONVOLUTIONS)}
    if not layers:
        raise ZooError(f"{type(module).__name__} has no convolution: name the layers to change, one by one.")
    if made := [name for name, layer in layers.items() if is_made(layer)]:
        maker = type(maker_of(layers[made[0]])).__name__
        raise ZooError(
            f"{made[0]} of this {type(module).__name__} is made already, by {maker}, and one weight has one maker: "
            "name the layers to change, one by one."
        )
    return layers


def put_masks(
    layers: Mapping[str, nn.Module], sparsities: Mapping[str, float], unit: str = "weight", density: str = "uniform"
) -> None:
    """Put a random mask on the weight of each layer.

    Args:
        layers: By name.
        sparsities: Of each layer.
        unit: As in :func:`make_sparse`.
        density: As in :func:`make_sparse`.

    Raises:
        ZooError: As :func:`make_sparse`.
    """
    if density not in ("uniform", "erk"):
        raise ZooError(f"density is 'uniform' or 'erk', not {density!r}.")
    check_unit(unit)
    shapes = {name: tuple(own_parameter(layer).shape) for name, layer in layers.items()}
    for sparsity in sparsities.values():
        check_sparsity(sparsity)
    counts = {name: entries_on(math.prod(mask_shape(shapes[name], unit)), sparsities[name]) for name in layers}
    if density == "erk":
        counts = erk_counts(shapes, sparsities, unit)
    if empty := [name for name, count in counts.items() if not count]:
        name = empty[0]
        raise ZooError(
            f"sparsity {sparsities[name]} leaves no {unit} of {name or label_of(layers[name])}, a weight of shape "
            f"{shapes[name]}: choose a lower one or a smaller unit."
        )
    for name, layer in layers.items():
        maker = MaskedWeight(shapes[name], unit=unit, on=counts[name])
        make_weight(layer, maker.to(layer.weight.device))


def erk_counts(
    shapes: Mapping[str, Sequence[int]], sparsities: Mapping[str, float], unit: str = "weight"
) -> dict[str, int]:
    """Mask entries that are on in each layer, by the Erdos-Renyi-kernel rule, for as many weights as uniform sparsity.

    A layer's density is proportional to (sum of its weight's axes) / (product of them); layers for which that exceeds
    1 are dense and the others share what is left. U. Evci et al., "Rigging the Lottery: Making All Tickets Winners",
    ICML 2020, https://arxiv.org/abs/1911.11134, section 3.

    Args:
        shapes: Of the weights, by layer.
        sparsities: The uniform ones, whose total count of weights is kept (to within one unit).
        unit: What a mask entry switches.

    Returns:
        Entries that are on, by layer.
    """
    entries = {name: math.prod(mask_shape(shape, unit)) for name, shape in shapes.items()}
    weights = {name: math.prod(shape) // entries[name] for name, shape in shapes.items()}  # per entry
    total = sum(entries_on(entries[name], sparsities[name]) * weights[name] for name in shapes)
    dense: set[str] = set()
    while True:
        rest = total - sum(math.prod(shapes[name]) for name in dense)
        scale = rest / max(1, sum(sum(shape) for name, shape in shapes.items() if name not in dense))
        share = {n: 1.0 if n in dense else scale * sum(s) / math.prod(s) for n, s in shapes.items()}
        over = {name for name in shapes if share[name] > 1}
        if not over:
            break
        dense |= over
    exact = {name: share[name] * entries[name] for name in shapes}
    counts = {name: min(int(exact[name]), entries[name]) for name in shapes}
    left = total - sum(counts[name] * weights[name] for name in shapes)
    for name in sorted(shapes, key=lambda name: counts[name] - exact[name]):  # largest remainder first
        if counts[name] < entries[name] and left >= weights[name]:
            counts[name] += 1
            left -= weights[name]
    return counts
