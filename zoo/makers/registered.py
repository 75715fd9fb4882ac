"""Finding what a network learns and does not register: PyTorch neither trains, saves nor counts that.

``self.banks = [bank]`` keeps a bank out of ``parameters()`` and of the state dict without a word; so does a function
that closes over one.
"""

import dis
import functools
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ..errors import ZooError

OWN_KEYS = frozenset(vars(nn.Module()))
"""Attributes that every module has, its registered parts among them."""
_LIBRARIES = ("builtins", "torch.", "timm.", "zoo.")


def check_registered(model: nn.Module) -> None:
    """Check that a network registers what it computes with, as far as attributes and functions tell.

    Looked through are plain attributes, lists, tuples, sets and mappings in them, functions and what these close over
    or name among the globals of their file. A module whose parameters are all frozen may be hidden (a teacher), unless
    it is a layer of this package.

    Raises:
        ZooError: If a parameter, or a module with some, is found there and is no part of the network.
    """
    known: set[int] = {id(part) for part in (*model.modules(), *model.parameters())}
    seen = set(known)
    for name, module in model.named_modules():
        cls = type(module).__mro__[1] if is_parametrized(module) else type(module)
        if cls.__module__.startswith(("torch.", "torchvision.")):
            continue
        places = {key: value for key, value in vars(module).items() if key not in OWN_KEYS}
        for base in reversed(cls.__mro__):
            if not base.__module__.startswith(_LIBRARIES):
                places |= {f"{key}()": value for key, value in _steps_of(base).items()}
        for key, value in places.items():
            for found in _parts(value, seen):
                if _matters(found, known):
                    what = "a parameter" if isinstance(found, Tensor) else f"a {type(found).__name__}"
                    raise ZooError(
                        f"{name or type(module).__name__}: {key} holds {what} that the network does not register, so "
                        "that it is neither trained, saved, counted nor copied: make it an attribute of its own, or "
                        "use nn.ModuleList, nn.ModuleDict or nn.ParameterList."
                    )


def _steps_of(cls: type) -> dict[str, FunctionType]:
    """A class's ``forward`` and the methods that it names."""
    functions = {key: value for key, value in vars(cls).items() if isinstance(value, FunctionType)}
    forward = functions.get("forward")
    named = {"forward", *forward.__code__.co_names} if forward else set()
    return {key: value for key, value in functions.items() if key in named}


def _matters(part: nn.Module | Tensor, known: set[int]) -> bool:
    if id(part) in known:
        return False
    if isinstance(part, Tensor):
        return isinstance(part, nn.Parameter) or (part.requires_grad and part.is_leaf)
    parameters = [parameter for parameter in part.parameters() if id(parameter) not in known]
    ours = type(part).__module__.startswith("zoo.layers")
    return any(parameter.requires_grad or ours for parameter in parameters)


def _parts(value: Any, seen: set[int]) -> Iterator[nn.Module | Tensor]:
    """The modules and tensors that a value holds; a module's own parts are not looked through."""
    if isinstance(value, nn.Module | Tensor):
        yield value
        return
    if id(value) in seen:
        return
    inner: list[Any] = []
    if isinstance(value, Mapping):
        inner = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        inner = list(value)
    elif isinstance(value, functools.partial):
        inner = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, MethodType):
        inner = [value.__self__, value.__func__]
    elif isinstance(value, FunctionType) and not value.__module__.startswith(_LIBRARIES):
        inner = [cell.cell_contents for cell in value.__closure__ or () if _is_set(cell)]
        here = value.__globals__
        named = [here[key] for key in _globals_of(value.__code__) if key in here]
        inner += [part for part in named if not isinstance(part, FunctionType) or part.__globals__ is here]
    if inner:
        seen.add(id(value))
    for part in inner:
        yield from _parts(part, seen)


def _is_set(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _globals_of(code: CodeType) -> set[str]:
    """Names of globals that a function reads, inner functions included; names of attributes are not among them."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(_globals_of(const) for const in code.co_consts if isinstance(const, CodeType)))
