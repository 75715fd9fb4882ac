"""What a network does with its layers, seen by running it: how often each is used, and which batch norm follows which.

A trace of the code would fail for many networks, and names say nothing for certain. So the network runs on tensors
without memory (the meta device), in eval and in train mode, and every operation of torch that takes a tensor is noted,
also inside scripted functions and checkpoints.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import ZooError
from ..makers.hooks import copy_of
from ..makers.registered import OWN_KEYS
from ..makers.values import loaded_later


@dataclass
class Flow:
    """A run of a network.

    Attributes:
        uses: How often each convolution and batch norm was called, by name.
        norm_of: The batch norm that alone reads what a convolution gives, by the convolution's name. Nothing else reads
            the kernel, or a tensor of the batch norm.
        elsewhere: Names of convolutions whose output or kernel somebody else reads as well.
    """

    uses: dict[str, int] = field(default_factory=dict)
    norm_of: dict[str, str] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)


def without_values(model: nn.Module) -> nn.Module:
    """A copy on the meta device: names and shapes, no numbers and no memory for them; what was one tensor stays one."""
    empty = {id(t): t.detach().to("meta") for t in (*model.parameters(), *model.buffers())}
    empty |= {id(p): nn.Parameter(empty[id(p)], p.requires_grad) for p in model.parameters()}
    with loaded_later():
        return copy_of(model, empty).to("meta")


def flow_of(model: nn.Module, image: tuple[int, int, int]) -> Flow:
    """Run a network and see what it does.

    Args:
        model: Any network; it is left as it is.
        image: (channels, height, width) of an image.

    Raises:
        ZooError: If it does not run on such an image.
    """
    example = next(p for p in model.parameters() if p.is_floating_point())
    images = torch.zeros(2, *image, device="meta", dtype=example.dtype)
    try:
        return _flow_of(without_values(model), images)
    except Exception:  # some networks compute with numbers of tensors, which there are none of here
        twin = copy_of(model)
        try:
            return _flow_of(twin, torch.zeros_like(images, device=example.device))
        except Exception as error:  # a network of the user's own can fail in any way
            raise ZooError(
                f"{type(model).__name__} does not run on images of {tuple(image)} "
                f"({' '.join(str(error).split())[:200]}): give input_size=(channels, height, width), or transform "
                "a part of it that takes images, such as its backbone."
            ) from None


@torch.no_grad()
def _flow_of(model: nn.Module, images: Tensor) -> Flow:
    """In eval mode; what training does otherwise, such as dropout before a batch norm, is taken into account."""
    flow = _run(model.eval(), images)
    try:
        with torch.random.fork_rng(devices=()):
            trained = _run(model.train(), images)
    except Exception:  # some networks want more than images then
        return flow
    flow.elsewhere |= trained.elsewhere
    for conv in flow.norm_of.keys() & trained.uses.keys():
        if trained.norm_of.get(conv) != flow.norm_of[conv]:
            del flow.norm_of[conv]
    return flow


def _run(model: nn.Module, images: Tensor) -> Flow:
    names = {module: name for name, module in model.named_modules()}
    watch, uses = _Watch(), Counter()
    outputs: dict[int, tuple[Tensor, nn.Module]] = {}
    inputs: dict[nn.Module, Tensor] = {}

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        watch.inside.append(module)
        if _is_norm(module) and args and isinstance(args[0], Tensor):
            inputs[module] = args[0]

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        watch.inside.pop()
        uses[names[module]] += 1
        if isinstance(module, nn.Conv2d) and isinstance(output, Tensor):
            outputs[id(output)] = output, module

    with contextlib.ExitStack() as hooks:
        for module in (m for m in names if isinstance(m, nn.Conv2d) or _is_norm(m)):
            hooks.callback(module.register_forward_pre_hook(before).remove)
            hooks.callback(module.register_forward_hook(after).remove)
        with watch:
            result = model(images)
    kept = [value for module in names for key, value in vars(module).items() if key not in OWN_KEYS]
    for leaf in tree_leaves((result, kept)):  # whoever has it may read it
        if isinstance(leaf, Tensor):
            watch.note(leaf)

    def alone(tensors: Iterable[Tensor], reader: nn.Module) -> bool:
        return all(watch.readers(tensor) <= {reader} for tensor in tensors)

    flow = Flow(dict(uses))
    for tensor, conv in outputs.values():
        norm = next((m for m, read in inputs.items() if read is tensor), None)
        if not alone(conv.parameters(), conv) or len(watch.readers(tensor)) > 1:
            flow.elsewhere.add(names[conv])
        elif (
            norm
            and uses[names[conv]] == uses[names[norm]] == 1
            and alone([tensor, *norm.parameters(), *norm.buffers()], norm)
        ):
            flow.norm_of[names[conv]] = names[norm]
    return flow


def writes_kernel(layer: nn.Conv2d) -> bool:
    """Whether a layer's forward changes its kernel in place, as masked convolutions of autoregressive networks do."""
    twin = without_values(layer)
    memory = _memory(twin.weight)
    sides = [d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    with _Watch() as watch, contextlib.suppress(Exception):  # what needs other images than these is not seen through
        twin(torch.zeros(1, layer.in_channels, *sides, device="meta", dtype=twin.weight.dtype))
    return memory._cdata in watch.written or _memory(twin.weight)._cdata != memory._cdata


def _is_norm(module: nn.Module) -> bool:
    """A batch norm, also one of timm's or torchvision's that never learns."""
    return isinstance(module, _BatchNorm) or type(module).__name__.startswith("FrozenBatchNorm")


def _memory(tensor: Tensor) -> Any:
    """What tensors that share memory have in common."""
    return tensor.untyped_storage() if tensor.layout == torch.strided else tensor


class _Watch(TorchDispatchMode):
    """Notes for the memory of each tensor in which layer it is read, and whether it is written to."""

    def __init__(self):
        super().__init__()
        self.inside: list[nn.Module] = []
        self.written: set[int] = set()
        self.by: dict[int, tuple[Any, set[nn.Module | None]]] = {}  # with the memory, so that no other gets its number

    def readers(self, tensor: Tensor) -> set[nn.Module | None]:
        return self.by.get(_memory(tensor)._cdata, (None, set()))[1]

    def note(self, tensor: Tensor, layer: nn.Module | None = None) -> None:
        memory = _memory(tensor)
        self.by.setdefault(memory._cdata, (memory, set()))[1].add(layer)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self.note(leaf, self.inside[-1] if self.inside else None)
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                self.written.add(_memory(value)._cdata)
        return func(*args, **(kwargs or {}))
