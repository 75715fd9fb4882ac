"""``transform`` and ``plan``: any convolutional network, with kernels that are made from fewer or more tensors."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import is_model
from torch import nn

from ..errors import UnknownNameError, ZooError
from ..makers.hooks import copy_of
from ..makers.values import to_come
from ..precision import full_precision
from ..reparam.described import origin_of
from ..reparam.record import input_size_of
from ..suggest import close_names
from ..weights.load import SOURCES
from .flow import without_values
from .report import Report, collapsed_size, size_of, total_error
from .spec import Step, read_spec, write_spec
from .target import Change, Target

ARCHITECTURE = "transformed"
"""Name with timm of networks that were transformed (:mod:`.registered`)."""

_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")


@full_precision()
def transform(
    model: nn.Module | str,
    kind: str,
    *,
    pretrained: bool = False,
    input_size: tuple[int, int, int] | None = None,
    **options: Any,
) -> nn.Module:
    """Return a network whose convolutions are shared, symmetric, sparse, tied, of low rank, branched or run again.

    It keeps its class, its forward, features, classifier and configuration, and starts from the weights it has: the
    same function where mathematics allows (``pd_a``, ``pd_b``, ``ac``; ``share`` with as many templates as layers),
    else the nearest kernels. ``zoo.reparameterize`` gives the plain architecture back.

    Args:
        model: Any network of convolutions, which is not changed; or a name of timm's or of this zoo.
        kind: ``share``, ``symmetrize``, ``sparsify``, ``tie``, ``pd_a``, ``pd_b``, ``ac``, ``reuse``, ``lowrank``; or a
            string with options, also of several kinds in order: ``"symmetrize:tri+sparsify:0.9"``.
        pretrained: Of a name: begin with its pretrained weights.
        input_size: (channels, height, width) of its images, where its configuration does not say it.
        **options: Of the kind: ``templates``; ``symm_type``, ``rank``; ``sparsity``, ``unit``, ``density``;
            ``branches``, ``reduction``; ``times``; ``rank``; and for each ``layers``, shell patterns of names.

    Returns:
        A new network, in the mode of the old one. Its ``zoo_report`` (:class:`zoo.transforms.Report`) says what became
        of each layer. Where nothing qualifies it is an unchanged copy, and the report says so.

    Raises:
        UnknownNameError: If there is no such kind, option or network; the message names those there are.
        ZooError: If an option has no meaning, or kinds cannot be combined on the layers they were to change.
    """
    steps = read_spec(kind, options)
    fresh = isinstance(model, str) and not pretrained
    model = network_of(model, pretrained) if isinstance(model, str) else _checked(model)
    return apply_steps(copy_of(model), steps, input_size, fresh)


@full_precision()
def plan(
    model: nn.Module | str, kind: str, *, input_size: tuple[int, int, int] | None = None, **options: Any
) -> Report:
    """What :func:`transform` would do, without doing it: nothing of the network's size is computed or allocated.

    Args:
        model: As of :func:`transform`.
        kind: As of :func:`transform`.
        input_size: As of :func:`transform`.
        **options: As of :func:`transform`.

    Returns:
        The report, printed as a table; without errors of kernels, which depend on values.

    Raises:
        UnknownNameError: As :func:`transform`.
        ZooError: As :func:`transform`.
    """
    steps = read_spec(kind, options)
    if isinstance(model, str):
        with torch.device("meta"):
            model = network_of(model)
    return apply_steps(without_values(_checked(model)), steps, input_size).zoo_report


def _checked(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ZooError(f"zoo.transform takes a network or a name, not a {type(model).__name__}.")
    for module in model.modules():
        if wrapper := next((c.__name__ for c in type(module).__mro__ if c.__name__ in _WRAPPERS), None):
            raise ZooError(f"{wrapper} knows the tensors it was given: transform the network, then wrap it.")
    return model


def network_of(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A network by its name with timm or this zoo.

    Raises:
        UnknownNameError: If there is no such name.
        ZooError: If timm cannot create it so.
    """
    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not is_model(name.split(".")[0]):
        close = close_names(name.split(".")[0], timm.list_models())
        hint = f"Did you mean {', '.join(close)}?" if close else "See: timm.list_models()"
        raise UnknownNameError(f"No model is called {name!r}. {hint}")
    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except ZooError:
        raise
    except (TypeError, ValueError, RuntimeError, OSError) as error:  # timm's own
        raise ZooError(f"{name} cannot be created: {' '.join(str(error).split())[:200]}") from None


@full_precision()
def apply_steps(
    model: nn.Module, steps: list[Step], input_size: tuple[int, int, int] | None = None, fresh: bool = False
) -> nn.Module:
    """Transform a network in place and let it say so.

    Args:
        model: The network.
        steps: As :func:`zoo.transforms.spec.read_spec` gives them.
        input_size: (channels, height, width).
        fresh: Its values are random.
    """
    image = input_size or _image_of(model)
    said = model.zoo_report = getattr(model, "zoo_report", None)  # from here on only what is made here collapses
    before = size_of(without_values(model), image)
    changes: list[Change] = []
    squares = []
    for kind, options in steps:
        target = Target(model, image, kind.name, fresh)
        kind.apply(target, **options)
        changes += target.changes
        squares.append(target.squares)
        if target.taken and not any(change.changed for change in target.changes):
            name = target.taken[0]
            note = next(change.note for change in target.changes if change.name == name)
            raise ZooError(
                f"{kind.name} cannot be combined with what was done before it: {name} is {note}. Masks (sparsify) may "
                "follow any kind but themselves, branches (pd_a, pd_b, ac) come first; or name different layers with "
                "layers=PATTERN."
            )
    after = size_of(without_values(model), image, before)
    if before.macs is not None and after.macs is None:
        raise ZooError(
            f"{type(model).__name__} does not run with {write_spec(steps)}: its code reads more of a layer than what "
            "it gives, such as conv.weight. Leave that layer out with layers=PATTERN."
        )
    collapsed, words = collapsed_size(model, image, before)
    known = not to_come() and not any(p.is_meta for p in model.parameters())
    spec = write_spec(steps)
    if not _is_read_back(spec):
        raise ZooError(f"{spec!r} cannot be read again: options may hold no commas, colons or signs such as | and =.")
    if isinstance(said, Report):
        spec, changes = f"{said.transform}+{spec}", [*said.changes, *changes]
    report = Report(spec, tuple(changes), before, after, collapsed, words, total_error(squares, known))
    if not report.changed:
        report = Report(spec, report.changes, before, before, before, "unchanged", 0.0 if known else None)
    model.zoo_report = report
    if report.changed:
        describe_transformed(model, spec)
    return model


def _is_read_back(spec: str) -> bool:
    """A saved network is made again from the string."""
    try:
        return write_spec(read_spec(spec)) == spec
    except ZooError:
        return False


def _image_of(model: nn.Module) -> tuple[int, int, int]:
    try:
        size = tuple(input_size_of(model))
        channels = model.pretrained_cfg["input_size"][0]  # some begin with another layer than a convolution
        return (model._model_args.get("in_chans", channels), *size[1:]) if hasattr(model, "_model_args") else size
    except (ZooError, AttributeError, KeyError, TypeError):  # a network of somebody's own
        first = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
        return (first, 224, 224)


def describe_transformed(model: nn.Module, spec: str) -> None:
    """Let a network with a configuration of timm's say what it is, for the folder it is saved to.

    Args:
        model: The network.
        spec: All transformations it went through.
    """
    cfg = getattr(model, "pretrained_cfg", None)
    if not isinstance(cfg, Mapping) or not is_model(cfg.get("architecture") or ""):
        return
    arguments = dict(getattr(model, "_model_args", None) or {})
    if cfg["architecture"] == ARCHITECTURE and "collapsed" not in arguments:
        own = {key: arguments[key] for key in ("base", "base_args") if key in arguments}
    else:
        rest = {key: value for key, value in arguments.items() if key not in ("in_chans", "num_classes")}
        own = {"base": cfg["architecture"], "base_args": rest}
    origin = origin_of(cfg)
    notes = [note for note in cfg.get("notes") or () if not note.startswith("transformed from ")]
    channels = arguments.get("in_chans", cfg["input_size"][0] if cfg.get("input_size") else 3)
    cfg = {key: value for key, value in cfg.items() if key not in (*SOURCES, "tag")}
    notes.append(f"transformed from {origin}: {spec}" if origin != ARCHITECTURE else f"transformed: {spec}")
    model.pretrained_cfg = model.default_cfg = cfg | {"architecture": ARCHITECTURE, "notes": tuple(notes)}
    model._model_args = {**own, "transform": spec, "in_chans": channels}
