"""The pages of the site, one after another."""

import json
import sys
from pathlib import Path
from typing import Any

from ..names import architectures, describe_entry
from ..weights.manifest import manifest
from .animations import animation
from .facts import all_facts
from .site import HERE, Site
from .try_page import try_page


def write_pages(folder: Path, names: list[str], data: dict[str, str | Path], progress: bool) -> None:
    """Write all pages.

    Args:
        folder: An empty one.
        names: Of the weights, ``arch.tag``.
        data: Folders of data sets by name.
        progress: Show a bar on standard error.

    Raises:
        ZooError: As :func:`zoo.gallery.build`.
    """
    from tqdm import tqdm

    records = all_facts(names)
    attempt = try_page(folder, records)
    families = _families(records)
    site = Site(folder, families=families, has_try=attempt is not None)
    site.copy_static()
    site.data("search", _search(records, families))
    if attempt is not None:
        site.page("try.html", "try.html", **attempt)
    site.page("index.html", "index.html", records=records)
    site.page("families/index.html", "families.html")
    for found in families:
        site.page(f"families/{found['name']}.html", "family.html", family=found, animation=animation(found["name"]))
    for record in tqdm(records, desc="gallery", delay=1, disable=None if progress else True, file=sys.stderr):
        site.page(f"weights/{record['name']}.html", "weight.html", record=record)


def _families(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each family with its text, paper, architectures and weights; those of the weights first, then the others."""
    archs, papers = architectures(), manifest()["papers"]
    texts = json.loads((HERE / "families.json").read_text(encoding="utf-8"))
    names = dict.fromkeys([*sorted(set(archs.values())), *(record["family"] for record in records)])
    found = []
    for name in names:
        paper = papers.get(name) or {}
        url = paper.get("arxiv") and f"https://arxiv.org/abs/{paper['arxiv']}"
        url = url or (paper.get("doi") and f"https://doi.org/{paper['doi']}")
        text = texts.get(name) or dict.fromkeys(texts["sparse"], "") | {"title": name}
        found.append(
            {
                "name": name,
                "text": text,
                "paper": {"title": paper.get("title"), "url": url},
                "members": [record for record in records if record["family"] == name],
                "architectures": [(arch, describe_entry(arch)) for arch, own in sorted(archs.items()) if own == name],
            }
        )
    return found


def _search(records: list[dict[str, Any]], families: list[dict[str, Any]]) -> list[list[str]]:
    """What the search box finds: title, kind, further words, page."""
    rows = [
        [f["text"]["title"], "family", f"{f['name']} {f['text']['tagline']}", f"families/{f['name']}.html"]
        for f in families
    ]
    rows += [
        [r["name"], "weight", f"{r['family']} {r['dataset']} {r['description']}", f"weights/{r['name']}.html"]
        for r in records
    ]
    rows += [
        [arch, "architecture", text, f"families/{f['name']}.html#{arch}"]
        for f in families
        for arch, text in f["architectures"]
    ]
    return rows
