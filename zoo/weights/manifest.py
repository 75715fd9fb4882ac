"""The manifest: the one place where a weight's facts are typed. timm's configurations are derived from it here."""

import difflib
import functools
import json
from collections.abc import Iterable
from typing import Any

from ..data.catalog import get_dataset
from ..errors import UnknownNameError, WeightError
from .paths import manifest_file, shipped_hub
from .schema import check_manifest


@functools.cache
def manifest() -> dict[str, Any]:
    """The whole manifest, read once.

    Raises:
        WeightError: If it is missing or damaged, or does not follow its schema.
    """
    path = manifest_file()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightError(f"{path}: the manifest cannot be read ({error!r}). Install the package again.") from None
    return check_manifest(content, path)


def weights() -> dict[str, dict[str, Any]]:
    """Facts of every weight, keyed by ``arch.tag``, in order of preference within an architecture."""
    return manifest()["weights"]


def facts(name: str) -> dict[str, Any]:
    """Facts of one weight.

    Args:
        name: ``arch.tag``, or an architecture, which stands for its first weight.

    Raises:
        UnknownNameError: If the manifest has no such weight; the message lists close names.
    """
    return weights()[full_name(name)]


def collapsed_facts(name: str) -> dict[str, Any]:
    """Facts of a weight's collapsed form, a file beside the weight's wherever that is: its own sha256, size, sources.

    Args:
        name: As :func:`facts`.

    Raises:
        UnknownNameError: If the manifest has no such weight.
        WeightError: If it has no collapsed form, or the file is left out; the message says what to do instead.
    """
    name = full_name(name)
    entry = weights()[name]
    form = entry.get("collapsed") or {"path": None, "reason": "none has been made"}
    if form["path"] is None:
        raise WeightError(
            f"{name} comes without its collapsed form ({form['reason']}). Collapse the network itself: "
            f"zoo.reparameterize(zoo.create_model({name!r}, pretrained=True).eval())"
        )
    hub = source(entry, "hub")
    sources = [{"kind": "staged", "path": f"{name}/{form['path']}", "embedded": False}]
    sources += [{**hub, "file": form["path"]}] if hub else []
    return {**entry, "sha256": form["sha256"], "size": form["size"], "sources": sources}


def full_name(name: str) -> str:
    """``arch.tag`` for ``arch.tag`` or for an architecture that has a weight.

    Raises:
        UnknownNameError: If there is none.
    """
    known = weights()
    if name in known:
        return name
    tagged = [n for n in known if n.split(".", 1)[0] == name]
    if tagged:
        return tagged[0]
    arch = name.split(".", 1)[0]
    close = [n for n in known if n.split(".", 1)[0] == arch] or difflib.get_close_matches(name, known, 4, 0.5)
    hint = f"Did you mean {', '.join(close)}?" if close else "See: zoo list --pretrained"
    raise UnknownNameError(f"No pretrained weight is called {name!r}. {hint}")


def paper_of(entry: dict[str, Any]) -> dict[str, Any]:
    """Title and identifiers of the paper whose architecture a weight has."""
    return manifest()["papers"][entry["family"]]


def paper_url(entry: dict[str, Any]) -> str:
    """Where that paper is found."""
    paper = paper_of(entry)
    return f"https://arxiv.org/abs/{paper['arxiv']}" if paper["arxiv"] else f"https://doi.org/{paper['doi']}"


def source(entry: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """The entry's source of a kind (``staged``, ``hub``, ``release``), or None."""
    return next((s for s in entry["sources"] if s["kind"] == kind), None)


def timm_cfgs(
    architectures: Iterable[str],
    *,
    first_conv: str | None,
    classifier: str,
    pool_size: tuple[int, int] | None,
    dataset: str = "cifar10",
) -> dict[str, dict[str, Any]]:
    """Pretrained configurations as ``timm.models.generate_default_cfgs`` takes them.

    An architecture without a weight gets an untagged configuration for ``dataset``. A weight that this copy of the
    package has no source for (a staged file that is not in the wheel) gets a configuration without a source, so that
    timm's lists of pretrained models stay true.

    Args:
        architectures: Registered names.
        first_conv: Module name of the first convolution.
        classifier: Module name of the last layer.
        pool_size: Feature map before pooling, at the configuration's input size.
        dataset: The data set whose form an architecture without a weight has by default.
    """
    common = {
        "first_conv": first_conv,
        "classifier": classifier,
        "pool_size": pool_size,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
    }
    cfgs: dict[str, dict[str, Any]] = {}
    for arch in architectures:
        tagged = {name: entry for name, entry in weights().items() if name.split(".", 1)[0] == arch}
        for name, entry in tagged.items():
            cfgs[name] = common | _timm_cfg(name, entry)
        if not tagged:
            info = get_dataset(dataset)
            cfgs[arch] = common | {
                "num_classes": info.num_classes,
                "input_size": info.input_size,
                "mean": info.mean,
                "std": info.std,
                "crop_pct": info.crop_pct,
            }
    return cfgs


def _timm_cfg(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    preprocessing = entry["preprocessing"]
    cfg: dict[str, Any] = {
        "num_classes": entry["num_classes"],
        "input_size": tuple(preprocessing["input_size"]),
        "mean": tuple(preprocessing["mean"]),
        "std": tuple(preprocessing["std"]),
        "interpolation": preprocessing["interpolation"],
        "crop_pct": preprocessing["crop_pct"],
        "license": entry["licence"].lower(),
        "description": entry["description"],
        "origin_url": entry["origin_url"],
        "paper_name": paper_of(entry)["title"],
        "paper_ids": paper_url(entry),
    }
    staged, hub, release = (source(entry, kind) for kind in ("staged", "hub", "release"))
    if staged and (shipped_hub() / staged["path"]).is_file():
        cfg["file"] = str(shipped_hub() / staged["path"])
    if hub:
        cfg["hf_hub_id"] = f"{hub['repo']}@{hub['revision']}"
        cfg["hf_hub_filename"] = hub["file"]
    if release:
        cfg["url"] = release["url"]
    return cfg
