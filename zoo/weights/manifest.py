"""The manifest: the one place where a weight's facts are typed. timm's configurations are derived from it here."""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import plugins
from ..data.catalog import get_dataset
from ..errors import UnknownNameError, WeightError
from ..suggest import close_names
from .manifest_check import is_base, problem_of_entry
from .paths import manifest_file, shipped_hub

SAME_FUNCTION = "the identical function before fine-tuning"
"""What a warm start is, and no more."""


def manifest() -> dict[str, Any]:
    """The whole manifest, read once, less its damaged entries, with the weights of other packages' (``zoo.manifests``).

    Raises:
        WeightError: If it is missing or cannot be read as a whole.
    """
    return _read()[0]


def weights() -> dict[str, dict[str, Any]]:
    """Facts of every weight, keyed by ``arch.tag``, in order of preference within an architecture."""
    return manifest()["weights"]


def damaged() -> dict[str, str]:
    """The weights whose entries are damaged and were left out, by name, with what is wrong with each."""
    return {name: problem for name, problem in _read()[1].items() if problem}


def problems() -> dict[str, str]:
    """A sentence for each damaged entry, by name."""
    path, places = manifest_file(), _read()[2]
    return {
        name: f"{places.get(name, path)}: the entry of {name} is damaged: {problem}."
        for name, problem in damaged().items()
    }


def refuse_damaged(name: str) -> None:
    """Raise the error for a weight whose entry is damaged; do nothing for any other name.

    Args:
        name: ``arch.tag``.

    Raises:
        WeightError: If its entry is damaged.
    """
    if problem := problems().get(name):
        raise WeightError(problem if "no family" in problem else f"{problem} Install the package again.")


_FAMILY_OF: dict[str, str] = {}


def know_families(family_of: Mapping[str, str]) -> None:
    """Take note of the architectures there are; from now on entries of other ones count as damaged.

    Args:
        family_of: Family of each architecture.
    """
    _FAMILY_OF.update(family_of)
    _read.cache_clear()


def families() -> Mapping[str, str]:
    """The family of every architecture that has been taken note of; empty before."""
    return _FAMILY_OF


def weights_of(arch: str) -> list[str]:
    """The weights of an architecture in order of preference, damaged entries among them: none takes another's place."""
    order = list(_read()[1])
    names = [name for name in {**weights(), **damaged()} if name.split(".", 1)[0] == arch]
    return sorted(names, key=lambda name: order.index(name) if name in order else -1)


@functools.cache
def _read() -> tuple[dict[str, Any], dict[str, str], dict[str, Path]]:
    """The manifest with those of other packages, what is wrong with each entry, and whose file each is in."""
    path = manifest_file()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        papers, known = content["papers"], _FAMILY_OF
        problems = {name: problem_of_entry(name, e, papers, known) for name, e in content["weights"].items()}
        sound = {name: entry for name, entry in content["weights"].items() if not problems[name]}
        starts = {base: entry for base, entry in content["warm_starts"].items() if is_base(entry)}
        content |= {"weights": sound, "warm_starts": starts, "releases": [*content["releases"]]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {str(error)[:100]}"
        raise WeightError(f"{path}: the manifest cannot be read ({reason}). Install the package again.") from None
    places = {}
    for file, other in plugins.manifests():
        content["papers"] = papers = {**other["papers"], **papers}
        for name, entry in other["weights"].items():
            if name in problems:  # the first one counts, and ours before all
                problems[f"{name} (a second one)"], places[f"{name} (a second one)"] = "its name is taken", file
                continue
            problems[name], places[name] = problem_of_entry(name, entry, papers, known), file
            if not problems[name]:
                sound[name] = plugins.with_places(entry, file)
    return content, problems, places


def problem_with(name: str, entry: Any, papers: dict[str, Any]) -> str:
    """What makes an entry that is to be written useless, in words; empty if nothing does."""
    return problem_of_entry(name, entry, papers, _FAMILY_OF)


def warm_starts() -> dict[str, dict[str, Any]]:
    """Facts of every warm start, keyed by ``arch.tag``: timm's own weights in the form of one of our networks.

    Returns:
        For each ``family``, ``kind`` (the word of ``zoo.expand``), ``base`` (timm's name of the weights), and the
        Hub's ``revision`` and ``sha256`` of the base's file, both None as long as the manifest does not have them.
    """
    return {
        name: {**network, "base": base, "revision": entry["revision"], "sha256": entry["sha256"]}
        for base, entry in manifest()["warm_starts"].items()
        for name, network in entry["networks"].items()
    }


def hub_source(base: str, revision: str) -> dict[str, Any]:
    """The Hub file of one of timm's own weights, as the manifest writes a source; repository and file are timm's."""
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(base)
    file = cfg.hf_hub_filename or "model.safetensors"
    return {"kind": "hub", "repo": cfg.hf_hub_id, "revision": revision, "file": file}


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
    return _beside(name, entry, form)


def predictions_facts(name: str) -> dict[str, Any]:
    """Facts of the file that has what a weight says of every test image, as :func:`collapsed_facts`.

    Args:
        name: As :func:`facts`.

    Raises:
        UnknownNameError: If the manifest has no such weight.
        WeightError: If it has no such file; the message says what to do instead.
    """
    name = full_name(name)
    entry = weights()[name]
    if "predictions" not in entry:
        raise WeightError(
            f"{name} comes without a file of its predictions. Make one: zoo validate {name} --dataset "
            f"{entry['dataset']} --data DIR --predictions FILE.npz"
        )
    return {**_beside(name, entry, entry["predictions"]), "ending": ".npz"}


def _beside(name: str, entry: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    """Facts of a file that lies beside a weight's, wherever that is."""
    hub = source(entry, "hub")
    sources = [{"kind": "staged", "path": f"{name}/{form['path']}", "embedded": False}]
    sources += [{**hub, "file": form["path"]}] if hub else []
    own = {key: value for key, value in entry.items() if key != "packed"}
    return {**own, "sha256": form["sha256"], "size": form["size"], "sources": sources}


def full_name(name: str) -> str:
    """``arch.tag`` for ``arch.tag`` or for an architecture that has a weight.

    Raises:
        UnknownNameError: If there is none.
        WeightError: If it is a warm start.
    """
    known = weights()
    if name in known:
        return name
    tagged = weights_of(name)
    refuse_damaged(tagged[0] if tagged else name)
    if tagged:
        return tagged[0]
    if name in warm_starts():
        raise WeightError(
            f"{name} is no weight of this zoo but a warm start, {warm_starts()[name]['base']} of timm in another form. "
            f"Load it with zoo.create_model({name!r}, pretrained=True)."
        )
    arch = name.split(".", 1)[0]
    same_arch = [n for n in [*known, *warm_starts()] if n.split(".", 1)[0] == arch]
    close = same_arch or close_names(name, known)
    hint = f"Did you mean {', '.join(close)}?" if close else "See: zoo list --pretrained"
    raise UnknownNameError(f"No pretrained weight is called {name!r}. {hint}")


def trained_by(entry: dict[str, Any]) -> str:
    """Who trained a weight, in words."""
    return "this project" if entry["origin"] == "zoo" else entry["origin"]


def paper_of(entry: dict[str, Any]) -> dict[str, Any]:
    """Title and identifiers of the paper whose architecture a weight has.

    Raises:
        WeightError: If the manifest has no paper for its family.
    """
    papers, family = manifest()["papers"], entry["family"]
    if family not in papers:
        raise WeightError(f"{manifest_file()}: papers lacks the family {family}; add its title, and arxiv or doi.")
    return papers[family]


def paper_url(entry: dict[str, Any]) -> str:
    """Where that paper is found."""
    paper = paper_of(entry)
    return f"https://arxiv.org/abs/{paper['arxiv']}" if paper["arxiv"] else f"https://doi.org/{paper['doi']}"


def source(entry: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """The entry's source of a kind (``staged``, ``hub``, ``release``), or None."""
    return next((s for s in entry["sources"] if s["kind"] == kind), None)


def base_cfg(
    dataset: str, *, first_conv: str | None, classifier: str, pool_size: tuple[int, int] | None
) -> dict[str, Any]:
    """The configuration of an architecture, whatever weights there are: in the form of a data set.

    Args:
        dataset: Gives classes, image size, normalisation and crop.
        first_conv: Module name of the first convolution.
        classifier: Module name of the last layer.
        pool_size: Feature map before pooling, at the data set's image size.
    """
    info = get_dataset(dataset)
    return {
        "first_conv": first_conv,
        "classifier": classifier,
        "pool_size": pool_size,
        "interpolation": "bilinear",
        "crop_pct": info.crop_pct,
        "num_classes": info.num_classes,
        "input_size": info.input_size,
        "mean": info.mean,
        "std": info.std,
    }


def timm_cfgs(architectures: Iterable[str], base: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Pretrained configurations as ``timm.models.generate_default_cfgs`` takes them.

    This runs while the package is imported, so nothing that is wrong with the manifest raises here: a damaged entry
    gets a configuration without a source, a manifest that cannot be read none at all, and their use says why.

    A weight that this copy of the package has no source for (a staged file that is not in the wheel) gets a
    configuration without a source, so that timm's lists of pretrained models stay true. So does a warm start whose
    revision the manifest does not have; a warm start is never an architecture's default, so that nobody who asks for a
    trained network gets one unawares.

    Args:
        architectures: Registered names.
        base: Their own configuration, see :func:`base_cfg`.
    """
    cfgs: dict[str, dict[str, Any]] = {}
    try:
        known, all_starts = weights(), warm_starts()
    except WeightError:
        known, all_starts = {}, {}
    for arch in architectures:
        tagged = weights_of(arch) if known else []
        starts = [name for name in all_starts if name.split(".", 1)[0] == arch]
        cfgs |= {name: {**base, **warm_start_cfg(name)} for name in starts}
        mark = "*" if starts else ""  # timm's sign of the default
        if tagged and tagged[0] not in known:  # last and marked, so that no other becomes the default unnoticed
            tagged, mark = [*tagged[1:], tagged[0] + "*"], ""
        for name in tagged:
            cfgs[name + mark] = {**base, **(_timm_cfg(name, known[name]) if name in known else {})}
            mark = ""
        if not tagged:
            cfgs[f"{arch}.*" if starts else arch] = dict(base)
    return cfgs


def warm_start_cfg(name: str) -> dict[str, Any]:
    """timm's configuration of a warm start: the base's, and where its file is if the manifest knows the revision."""
    from timm.models import get_pretrained_cfg

    entry = warm_starts()[name]
    cfg = get_pretrained_cfg(entry["base"]).to_dict(remove_source=True)
    cfg |= {"architecture": None, "tag": None}  # timm fills in ours
    cfg["description"] = f"{entry['base']} of timm expanded to {entry['kind']}: {SAME_FUNCTION}"
    if entry["revision"]:
        hub = hub_source(entry["base"], entry["revision"])
        cfg |= {"hf_hub_id": f"{hub['repo']}@{hub['revision']}", "hf_hub_filename": hub["file"]}
    return cfg


def _timm_cfg(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    preprocessing = entry["preprocessing"]
    cfg: dict[str, Any] = {
        "num_classes": entry["num_classes"],
        "input_size": tuple(preprocessing["input_size"]),
        "mean": tuple(preprocessing["mean"]),
        "std": tuple(preprocessing["std"]),
        "interpolation": preprocessing["interpolation"],
        "crop_pct": preprocessing["crop_pct"],
        "label_names": list(get_dataset(entry["dataset"]).classes) or None,
        "license": entry["licence"].lower(),
        "description": entry["description"],
        "origin_url": entry["origin_url"],
        "paper_name": paper_of(entry)["title"],
        "paper_ids": paper_url(entry),
    }
    staged, hub, release = (source(entry, kind) for kind in ("staged", "hub", "release"))
    here = shipped_hub() / staged["path"] if staged else None
    if here and (here.is_file() or ("packed" in entry and here.with_name(entry["packed"]["path"]).is_file())):
        cfg["file"] = str(here)  # which of the two is read is decided by the zoo, not by timm
    if hub:
        cfg["hf_hub_id"] = f"{hub['repo']}@{hub['revision']}"
        cfg["hf_hub_filename"] = hub["file"]
    if release:
        cfg["url"] = release["url"]
    return cfg
