"""The pages of the site, one after another."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..names import architectures, describe_entry
from ..weights.manifest import manifest
from .animations import animation
from .axes import plotted
from .beside import kept_predictions, stories
from .facts import REFERENCE, all_facts
from .layers import layer_facts
from .measured import read_measured
from .sets import ImageSet, confusion, image_sets, pair_facts, said, surest_mistakes, write_sheets
from .site import HERE, Site
from .snippets import snippets
from .try_page import try_page
from .words import slug

SHOWN = 24
"""Wrong images that stand in a weight's page; its script brings the others."""


def write_pages(folder: Path, names: list[str], data: Mapping[str, str | Path], progress: bool, try_it: bool) -> None:
    """Write all pages.

    Args:
        folder: An empty one.
        names: Of the weights, ``arch.tag``.
        data: Folders of data sets by name.
        progress: Show a bar on standard error.
        try_it: Make the page on which networks run.

    Raises:
        ZooError: As :func:`zoo.gallery.build`.
    """
    from tqdm import tqdm

    records = all_facts(names)
    kept = {name: found for name in names if (found := kept_predictions(name)) is not None}
    sets, families = image_sets(kept, data), _families(records)
    count = 1 + len(families) + len(sets) + len(records)
    with tqdm(total=count, desc="gallery", delay=1, disable=None if progress else True, file=sys.stderr) as bar:
        attempt = try_page(folder, records) if try_it else None
        titles = {found["name"]: found["text"]["title"] for found in families}
        site = Site(folder, families=families, titles=titles, has_try=attempt is not None)
        site.copy_static()
        site.data("search", _search(records, families))
        if attempt is not None:
            site.data("try", attempt["facts"])
            site.page("try.html", "try.html", **attempt)
        _overview(site, records, titles)
        bar.update()
        site.page("families/index.html", "families.html")
        for found in families:
            _family(site, found)
            bar.update()
        sheets = {}
        for measured in sets:
            sheets[measured.key] = _image_set(site, measured)
            bar.update()
        without = [record for record in records if record["name"] not in kept]
        site.page("compare.html", "compare.html", sets=sets, records={r["name"]: r for r in records}, without=without)
        for record in records:
            mine = next((measured for measured in sets if record["name"] in measured.predictions), None)
            _weight(site, record, mine, sheets[mine.key] if mine else None)
            bar.update()


def _family(site: Site, found: dict[str, Any]) -> None:
    name, moving = slug(found["name"]), animation(found["name"])
    if moving and "figure" in moving:
        site.data(f"pictures/{name}", moving.pop("figure"))
    site.page(f"families/{name}.html", "family.html", family=found, animation=moving)


def _overview(site: Site, records: list[dict[str, Any]], titles: dict[str, str]) -> None:
    site.data("plot", plotted(records, read_measured("published_cifar10.json")) | {"families": titles})
    about = read_measured("benchmarks.json").get("machine") or {}
    chosen = {key: list(dict.fromkeys(r[key] for r in records)) for key in ("dataset", "family", "trained_by")}
    site.page("index.html", "index.html", records=records, chosen=chosen, machine=about, reference=REFERENCE)


def _image_set(site: Site, found: ImageSet) -> dict[str, Any] | None:
    """What the comparison and the pages of weights load of a set; returns the places of its pictures."""
    sheets = write_sheets(found, site.folder / "images" / found.key)
    labels = [int(label) for label in found.labels]
    facts = {"classes": found.classes, "labels": labels, "pairs": pair_facts(found), "sheets": sheets, "n": found.n}
    site.data(f"sets/{found.key}", facts)
    for name, p in found.predictions.items():
        site.data(f"predictions/{name}", said(p))
    return sheets


def _weight(site: Site, record: dict[str, Any], found: ImageSet | None, sheets: dict[str, Any] | None) -> None:
    """The page of a weight, and what its script draws."""
    name, own = record["name"], stories(record["name"])
    layers = layer_facts(name, record["here"])
    drawn: dict[str, Any] = {"layers": layers, "log": _curve(own["log"]), "seeds": _curve(own["seeds_log"])}
    drawn["corruptions"] = (record["corruptions"] or {}).get("by")
    mistakes, matrix, places = [], None, {}
    if found:
        matrix = confusion(found, name)
        mistakes = surest_mistakes(found, name, SHOWN)
        drawn |= {"set": found.key, "classes": found.classes, "confusion": matrix["matrix"]}
        places = {int(place): k for k, place in enumerate(found.shown)} if sheets else {}
    site.data(f"weights/{name}", drawn)
    site.page(
        f"weights/{name}.html",
        "weight.html",
        r=record,
        own=own,
        layers=layers,
        set=found,
        confusion=matrix,
        mistakes=mistakes,
        sheets=sheets,
        places=places,
        snippets=snippets(record),
        reference=REFERENCE,
    )


def _curve(log: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """What is drawn of a log's lines."""
    wanted = ("seed", "epoch", "loss", "lr", "held_out_top1")
    return log and [{key: line[key] for key in wanted if key in line} for line in log]


def _families(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each family with its text, paper, architectures and weights."""
    archs, papers = architectures(), manifest()["papers"]
    texts = json.loads((HERE / "families.json").read_text(encoding="utf-8"))
    found = []
    for name in dict.fromkeys([*texts, *sorted(set(archs.values()))]):
        paper = papers.get(name) or {}
        url = paper.get("arxiv") and f"https://arxiv.org/abs/{paper['arxiv']}"
        url = url or (paper.get("doi") and f"https://doi.org/{paper['doi']}")
        found.append(
            {
                "name": name,
                "text": texts.get(name) or {**dict.fromkeys(texts["sparse"], ""), "title": name},
                "paper": {"title": paper.get("title"), "url": url},
                "members": [record for record in records if record["family"] == name],
                "architectures": [(arch, describe_entry(arch)) for arch, own in sorted(archs.items()) if own == name],
            }
        )
    return found


def _search(records: list[dict[str, Any]], families: list[dict[str, Any]]) -> list[list[str]]:
    """What the search box finds: title, kind, further words, page."""
    rows = [
        [f["text"]["title"], "family", f"{f['name']} {f['text']['tagline']}", f"families/{slug(f['name'])}.html"]
        for f in families
    ]
    rows += [
        [r["name"], "weight", f"{r['family']} {r['dataset']} {r['description']}", f"weights/{r['name']}.html"]
        for r in records
    ]
    rows += [
        [arch, "architecture", text, f"families/{slug(f['name'])}.html#{arch}"]
        for f in families
        for arch, text in f["architectures"]
    ]
    return rows
