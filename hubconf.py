"""Entry points for torch.hub, made from the registry: one per architecture.

torch.hub.load("<owner>/<repository>:<tag>", "lrunet10_100", pretrained=True, trust_repo=True)
torch.hub.load("<folder of a checkout>", "lrunet10_100", source="local", pretrained=True)
torch.hub.load("<folder of a checkout>", "lrunet10_100.zoo_fmnist", source="local", pretrained=True)
"""

import sys as _sys
from pathlib import Path as _Path

dependencies = ["torch", "torchvision", "timm", "huggingface_hub", "safetensors", "requests"]

_HERE = _Path(__file__).resolve().parent


def _collision() -> str:
    """Where another package called zoo lies that this process has imported before; empty if there is none."""
    for name, module in sorted(_sys.modules.items()):
        if name == "zoo" or name.startswith("zoo."):
            places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
            place = next((str(place) for place in places if place), "a module without a file")
            root = _Path(place).resolve()
            while root.name != "zoo" and root != root.parent:
                root = root.parent
            if not (root / "makers" / "shared.py").is_file():  # ours, this or another version of it
                return place
    return ""


_other = _collision()
try:
    if not _other:
        import zoo as _zoo
except ImportError as _error:
    _missing = _error.name or ""
    if _missing.partition(".")[0] == "zoo":
        raise RuntimeError(f"The model zoo beside {__file__} cannot be imported: {_error}.") from None
    if not isinstance(_error, ModuleNotFoundError):
        raise
    raise RuntimeError(
        f"The model zoo needs the package {_missing}: pip install torch torchvision timm huggingface-hub "
        "safetensors requests"
    ) from None
_other = _other or _collision()
if _other:
    raise RuntimeError(
        f"Another package called zoo is imported in this process ({_other}), and Python keeps one of a name. Load the "
        f"model zoo of {_HERE} in a process that does not import the other, or remove that from sys.path."
    )

if _Path(_zoo.__file__).resolve().parent.parent != _HERE:
    import warnings as _warnings

    _warnings.warn(
        f"torch.hub loads the package zoo {_zoo.__version__} that this process imported before from "
        f"{_Path(_zoo.__file__).parent}, not the one beside this hubconf.py. Start a new process for the other.",
        stacklevel=2,
    )


def _entry_point(name: str, summary: str):
    def create(pretrained: bool = False, tag: str = "", **kwargs):
        arch, _, own = name.partition(".")
        if own and tag and tag != own:
            raise _zoo.UnknownNameError(f"{name} names its weight already: leave out tag={tag!r}, or ask for {arch!r}.")
        return _zoo.create_model(f"{arch}.{own or tag}" if own or tag else arch, pretrained=pretrained, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"""{summary}

    Args:
        pretrained: Load the weight, its sha256 checked against the manifest.
        tag: Which weight, such as ``zoo_fmnist``; by default the architecture's first.
        **kwargs: As ``timm.create_model``: ``num_classes``, ``in_chans``, ``features_only``, ...
    """
    return create


for _name in _zoo.list_models():
    globals()[_name] = _entry_point(_name, _zoo.describe_entry(_name))


class _UnknownName(_zoo.UnknownNameError, AttributeError):
    """What Python expects of a module that lacks a name."""


def __getattr__(name: str):
    """The entry point of a weight (``lrunet10_100.zoo_fmnist``); of a wrong name, an error with close ones."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return _entry_point(name, _zoo.describe_entry(name))
    except _zoo.UnknownNameError as error:
        raise _UnknownName(str(error)) from None


class _AnyName(str):
    """Equal to every public name: torch.hub asks ``__getattr__`` for no name that ``dir`` lacks, and lists ``dir``."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and (str.__eq__(self, other) or not other.startswith("_"))


def __dir__() -> list[str]:
    return [*globals(), _AnyName("_zoo")]
