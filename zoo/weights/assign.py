"""Building a network around weights that are already there: nothing is drawn at random first, nothing is copied.

timm constructs a network, with random weights, and copies the pretrained ones over them. Here it is constructed on the
meta device, which allocates nothing, and the tensors read take the places of the parameters.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_SMALL = 4 << 20  # bytes; below, putting many small tensors in place takes longer than filling and copying them


def is_worth_it(state: dict[str, Tensor] | None) -> bool:
    """Whether a network with these weights is created faster unfilled."""
    return state is not None and sum(tensor.nbytes for tensor in state.values()) > _SMALL


def unfilled(cls: type[nn.Module]) -> Callable[..., nn.Module]:
    """A constructor of networks whose tensors have shapes but no content."""

    @functools.wraps(cls, updated=())
    def construct(**kwargs: Any) -> nn.Module:
        with torch.device("meta"):
            return cls(**kwargs)

    return construct


def take_over(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Let the next ``load_state_dict`` of an unfilled network put the given tensors in place instead of copying them.

    Args:
        model: From :func:`unfilled`.
        state: Its state dict; the types of the network's own tensors are kept.

    Returns:
        What to give to ``load_state_dict``.
    """
    for module in list(model.modules()):
        derived = [getattr(module, name) for name in module._non_persistent_buffers_set]
        if any(b is not None and b.is_meta for b in derived) and type(module)._apply is not nn.Module._apply:
            module.to_empty(device="cpu", recurse=False)  # such a module computes these buffers again when it is moved
    model.load_state_dict = functools.partial(model.load_state_dict, assign=True)
    own = model.state_dict()
    return {name: t.to(own[name].dtype) if name in own else t for name, t in state.items()}


def is_filled(model: nn.Module) -> bool:
    """Whether every tensor has content; also makes ``load_state_dict`` the class's own again."""
    vars(model).pop("load_state_dict", None)
    return not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
