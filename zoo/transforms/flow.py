"""What a network does with its layers, seen by running it once: their order, and which batch norm follows which.

A trace of the code would fail for many networks, and names say nothing for certain. So the network runs on tensors
without memory (the meta device), and every function of torch that takes a tensor is noted.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..errors import ZooError
from ..makers.hooks import copy_of
from ..makers.values import loaded_later


@dataclass
class Flow:
    """A run of a network.

    Attributes:
        order: Names of the convolutions and linear layers, in the order of their first use.
        uses: How often each module was called, by name.
        norm_of: The batch norm that alone reads what a convolution gives, by the convolution's name.
    """

    order: list[str] = field(default_factory=list)
    uses: dict[str, int] = field(default_factory=dict)
    norm_of: dict[str, str] = field(default_factory=dict)


def without_values(model: nn.Module) -> nn.Module:
    """A copy on the meta device: names and shapes, no numbers and no memory for them."""
    with loaded_later():
        return copy_of(model).to("meta")


def flow_of(model: nn.Module, image: tuple[int, int, int]) -> Flow:
    """Run a network once and see what it does.

    Args:
        model: Any network; it is left as it is.
        image: (channels, height, width) of an image.

    Raises:
        ZooError: If it does not run on such an image.
    """
    try:
        return _flow_of(without_values(model).eval(), torch.zeros(2, *image, device="meta"))
    except Exception:  # some networks compute with numbers of tensors, which there are none of here
        example = next(model.parameters())
        twin = copy_of(model).eval()
        try:
            return _flow_of(twin, torch.zeros(2, *image, device=example.device, dtype=example.dtype))
        except Exception as error:  # a network of the user's own can fail in any way
            raise ZooError(
                f"{type(model).__name__} does not run on images of {tuple(image)} "
                f"({' '.join(str(error).split())[:200]}): give input_size=(channels, height, width), or transform "
                "a part of it that takes images, such as its backbone."
            ) from None


@torch.no_grad()
def _flow_of(model: nn.Module, images: Tensor) -> Flow:
    names = {module: name for name, module in model.named_modules()}
    convs = [m for m in names if isinstance(m, nn.Conv2d)]
    norms = [m for m in names if _is_norm(m)]
    flow, watch = Flow(), _Readers()
    outputs: dict[int, tuple[Tensor, nn.Module]] = {}
    inputs: dict[nn.Module, Tensor] = {}

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        watch.inside.append(module)
        if _is_norm(module) and args and isinstance(args[0], Tensor):
            inputs[module] = args[0]

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        watch.inside.pop()
        name = names[module]
        flow.uses[name] = flow.uses.get(name, 0) + 1
        if isinstance(module, nn.Conv2d | nn.Linear) and flow.uses[name] == 1:
            flow.order.append(name)
        if isinstance(module, nn.Conv2d) and isinstance(output, Tensor):
            outputs[id(output)] = output, module

    with contextlib.ExitStack() as hooks:
        for module in [*convs, *norms, *(m for m in names if isinstance(m, nn.Linear))]:
            hooks.callback(module.register_forward_pre_hook(before).remove)
            hooks.callback(module.register_forward_hook(after).remove)
        with watch:
            result = model(images)
    returned = {id(leaf) for leaf in tree_leaves(result)}
    for norm, tensor in inputs.items():
        conv = outputs.get(id(tensor), (None, None))[1]
        if conv is None or flow.uses[names[conv]] != 1 or flow.uses[names[norm]] != 1 or id(tensor) in returned:
            continue
        if watch.readers(tensor) == {norm}:
            flow.norm_of[names[conv]] = names[norm]
    return flow


def _is_norm(module: nn.Module) -> bool:
    """A batch norm, also one of timm's or torchvision's that never learns."""
    return isinstance(module, _BatchNorm) or type(module).__name__.startswith("FrozenBatchNorm")


class _Readers(TorchFunctionMode):
    """Notes for each tensor in which layer it is read; attributes such as its shape are no reading."""

    def __init__(self):
        super().__init__()
        self.inside: list[nn.Module] = []
        self.by: dict[int, tuple[Tensor, set[nn.Module | None]]] = {}  # with the tensor, so that no other gets its id

    def readers(self, tensor: Tensor) -> set[nn.Module | None]:
        return self.by.get(id(tensor), (tensor, set()))[1]

    def __torch_function__(self, func: Any, types: Iterable[type], args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, "__name__", "")
        if name not in ("__get__", "size", "dim", "numel", "stride", "is_contiguous", "data_ptr", "ndimension"):
            layer = self.inside[-1] if self.inside else None
            for tensor in self._tensors(args, kwargs):
                self.by.setdefault(id(tensor), (tensor, set()))[1].add(layer)
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _tensors(args: tuple, kwargs: dict | None) -> Iterator[Tensor]:
        return (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
