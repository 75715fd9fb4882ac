"""Entry points for torch.hub, made from the registry: one per architecture.

torch.hub.load("<owner>/<repository>:<tag>", "lrunet10_100", pretrained=True, trust_repo=True)
torch.hub.load("<folder of a checkout>", "lrunet10_100", source="local", pretrained=True)
"""

from pathlib import Path as _Path

dependencies = ["torch", "torchvision", "timm", "huggingface_hub", "safetensors", "requests"]

try:
    import zoo as _zoo
except ModuleNotFoundError as _error:
    raise RuntimeError(
        f"The model zoo needs the package {_error.name}: pip install torch torchvision timm huggingface-hub "
        "safetensors requests"
    ) from None

if _Path(_zoo.__file__).resolve().parent.parent != _Path(__file__).resolve().parent:
    import warnings as _warnings

    _warnings.warn(
        f"torch.hub loads the package zoo {_zoo.__version__} that this process imported before from "
        f"{_Path(_zoo.__file__).parent}, not the one beside this hubconf.py. Start a new process for the other.",
        stacklevel=2,
    )


def _entry_point(name: str, summary: str):
    def create(pretrained: bool = False, tag: str = "", **kwargs):
        return _zoo.create_model(f"{name}.{tag}" if tag else name, pretrained=pretrained, **kwargs)

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
