"""Whether two networks with the same tensors compute the same function of them, and if not, what differs.

Activations, poolings, strides, dilation, blurs, padding and the eps of batch norms leave no trace in a state dict. The
comparison runs both networks in float64, with their present tensors and with random ones put into both, since a network
whose last batch norms start at zero has residual branches that say nothing yet; at two sizes and three scales of input.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ZooError
from ..makers.hooks import check_values, copy_of
from ..outputs import gap_of, outputs_of
from ..precision import full_precision

SIZES = ((64, 64), (97, 75))
_SCALES = (0.1, 1.0, 30.0)
_TOLERANCE = 1e-9
_PASSIVE = (nn.Identity, nn.Dropout, nn.Dropout2d)
_ATTRIBUTES = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    *("ceil_mode", "count_include_pad", "output_size", "eps", "pool_type", "flatten", "negative_slope", "approximate"),
)


@full_precision()
def check_same_function(
    model: nn.Module, plain: nn.Module, label: str, channels: int, sizes: Sequence[tuple[int, int]] = SIZES
) -> None:
    """Check that a network computes what an ordinary one with tensors of the same names does.

    Args:
        model: Any network; it is not changed.
        plain: The ordinary one; it gets the tensors of ``model``.
        label: Name of the ordinary one, for the message.
        channels: Of the images.
        sizes: (height, width) of the images.

    Raises:
        ZooError: If names or shapes of tensors differ, or the functions do; the message says where.
    """
    state, own = (_tensors(network) for network in (model, plain))
    wrong = [key for key in [*state, *own] if key not in own or key not in state or own[key].shape != state[key].shape]
    if wrong:
        reason = first_difference(model, plain, label) or _tensor_difference(wrong[0], state, own, label)
        names = ", ".join(sorted(set(wrong))[:4])
        raise ZooError(f"This {type(model).__name__} is no {label}: {reason} (its tensors {names} differ).")
    check_values(model)
    plain.load_state_dict(model.state_dict(), strict=False)
    first, second = (copy_of(network).to("cpu", torch.float64).eval() for network in (model, plain))
    for values, chosen in ((None, sizes[:1]), (_random_tensors(state), sizes)):
        if values is not None:
            first.load_state_dict(values, strict=False)
            second.load_state_dict(values, strict=False)
        for height, width in chosen:
            images = torch.randn(3, channels, height, width, generator=torch.Generator("cpu").manual_seed(0))
            images = (images.double() + 0.5) * torch.tensor(_SCALES, dtype=torch.float64).view(-1, 1, 1, 1)
            expected = outputs_of(second, images)
            try:
                found = outputs_of(first, images)
            except ZooError:
                reason = f"it cannot run on images of {height}x{width}"
                raise ZooError(_message(model, plain, label, reason)) from None
            if not _agree(expected, found, _TOLERANCE):
                raise ZooError(_message(model, plain, label))


@full_precision()
def check_same_outputs(model: nn.Module, other: nn.Module, images: Tensor) -> None:
    """Check that two networks return the same for some images, up to the rounding of the first one's data type.

    Raises:
        ZooError: If they do not.
    """
    dtype = next(p.dtype for p in model.parameters())
    first, second = (copy_of(network).to("cpu", torch.float64).eval() for network in (model, other))
    tolerance = max(_TOLERANCE, 1000 * torch.finfo(dtype).eps)
    if not _agree(outputs_of(first, images), outputs_of(second, images), tolerance):
        raise ZooError(f"{type(other).__name__} does not compute what this {type(model).__name__} does.")


def _agree(expected: list[Tensor], found: list[Tensor], tolerance: float) -> bool:
    """Image by image, since the images differ in scale."""
    if [x.shape for x in expected] != [x.shape for x in found]:
        return False
    for x, y in zip(expected, found, strict=True):
        both = x.isfinite() & y.isfinite()
        if not torch.equal(x.isfinite(), y.isfinite()):
            return False
        x, y = x.where(both, 0), y.where(both, 0)
        if any(gap_of(a, b)[1] > tolerance for a, b in zip(x, y, strict=True)):
            return False
    return True


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of a state dict but the counters of batches, which some batch norms lack."""
    return {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}


def _random_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Random values of a size that keeps activations about as large as they were."""
    generator, values = torch.Generator("cpu").manual_seed(1), {}
    for key, tensor in state.items():
        if tensor.is_floating_point():
            shape = tensor.shape
            uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
            if tensor.dim() > 1:
                bound = (6 / tensor[0].numel()) ** 0.5
                values[key] = (2 * uniform - 1) * bound
            else:  # gains and variances from 0.5 to 1.5, shifts and means from -0.5 to 0.5
                values[key] = uniform + (0.5 if key.endswith(("weight", "running_var")) else -0.5)
    return values


def _message(model: nn.Module, plain: nn.Module, label: str, otherwise: str = "its forward pass differs") -> str:
    reason = first_difference(model, plain, label) or otherwise
    name = type(model).__name__
    return f"This {name} has the tensors of a {label} but computes something else with them: {reason}."


def _tensor_difference(key: str, state: dict[str, Tensor], own: dict[str, Tensor], label: str) -> str:
    if key in state and key in own:
        return f"{key} is {tuple(state[key].shape)}, a {label} has {tuple(own[key].shape)}"
    return f"it has {key}, which a {label} lacks" if key in state else f"it lacks {key}, which a {label} has"


def first_difference(model: nn.Module, plain: nn.Module, label: str) -> str | None:
    """Say in what a network's modules first differ from an ordinary one's, or None where they do not.

    Args:
        model: The network.
        plain: The ordinary one.
        label: Name of the ordinary one.
    """
    theirs, ours = dict(model.named_modules()), dict(plain.named_modules())
    known = {type(module) for module in ours.values()}
    for name, module in theirs.items():
        other = ours.get(name)
        if not name or (other is None and ("." in name and name.rpartition(".")[0] not in ours)):
            continue
        if other is None:
            if _acts(module) and type(module) not in known:
                return f"it has {name} ({type(module).__name__}), which a {label} lacks"
            continue
        if (_kind(module) != _kind(other)) and (_acts(module) or _acts(other)) and _is_leaf(other):
            return f"{name} is {_kind(module)}, a {label} has {_kind(other)}"
        for attribute in _ATTRIBUTES:
            values = [getattr(m, attribute, None) for m in (module, other)]
            if values[0] != values[1] and all(isinstance(v, int | float | str | tuple | bool) for v in values):
                at = name if attribute == "pool_type" else f"{name}.{attribute}"
                return f"{at} is {values[0]}, a {label} has {values[1]}"
    for name, module in ours.items():
        if name not in theirs and _acts(module) and any(p is not None for p in module._parameters.values()):
            return f"it lacks {name} ({_kind(module)}), which a {label} has"
    return None


def _acts(module: nn.Module) -> bool:
    return not isinstance(module, _PASSIVE) and type(module).__name__ not in ("DropPath", "StochasticDepth")


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _kind(module: nn.Module) -> str:
    if isinstance(module, _BatchNorm) and type(module).__module__.startswith("torch.nn"):
        return "BatchNorm"
    if isinstance(module, nn.Conv2d):
        return "Conv2d"
    return type(module).__name__
