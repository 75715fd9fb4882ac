"""The pages that a mirror's server makes itself: of a repository, and a plain front page where there is no gallery."""

from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import quote

from ..weights.manifest import weights
from .repository import MODEL

_STYLE = """
:root { color-scheme: light dark; }
body { max-width: 62rem; margin: 0 auto; padding: 1.5rem; font: 16px/1.5 system-ui, sans-serif; }
body { overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: .8rem; border: 1px solid; border-radius: .4rem; white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .25rem .8rem .25rem 0; }
td.n { text-align: right; } code { font-size: .85em; }
"""


def mirrored_weights(repositories: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The weights of the manifest among the repositories of a mirror: by name and by the sha256 of their file."""
    known = weights()
    names = {}
    for repo, found in repositories.items():
        name, files = repo.split("/")[1], found["commits"][found["main"]]
        if name in known and files.get(MODEL, {}).get("sha256") == known[name]["sha256"]:
            names[name] = True
    return sorted(names)


def front_page(repositories: Mapping[str, Mapping[str, Any]], hint: str) -> str:
    """The page that lists the repositories.

    Args:
        repositories: As :func:`.mirror.read_index` gives them.
        hint: A sentence below the list.
    """
    rows = "".join(f'<li><a href="/{quote(repo)}">{escape(repo)}</a></li>' for repo in sorted(repositories))
    return _page("A mirror of weights", f"<ul>{rows}</ul><p>{escape(hint)}</p>")


def repository_page(repo: str, commit: str, listed: Mapping[str, Mapping[str, Any]], card: bytes, figures: str) -> str:
    """The page of a repository: how it is loaded, its files and its card.

    Args:
        repo: ``owner/name``.
        commit: The newest.
        listed: Its files, with ``size`` and ``sha256`` of each.
        card: Its ``README.md``.
        figures: Address of its page in the gallery; empty if there is none.
    """
    rows = "".join(
        f'<tr><td><a href="/{quote(repo)}/resolve/{commit}/{quote(file)}">{escape(file)}</a></td>'
        f'<td class="n">{found["size"]:,}</td><td><code>{found["sha256"]}</code></td></tr>'
        for file, found in listed.items()
    )
    use = f'import timm, zoo\n\nmodel = timm.create_model("hf-hub:{repo}", pretrained=True)'
    more = f'<p><a href="{escape(figures)}">Figures, curve and images in the gallery</a></p>' if figures else ""
    text = card.decode("utf-8", "replace")
    return _page(
        repo,
        f'<p><a href="/">All weights</a></p>{more}<pre>{escape(use)}</pre>'
        f"<h2>Files</h2><p>Commit <code>{commit}</code></p>"
        '<table><thead><tr><th>file</th><th class="n">bytes</th><th>sha256</th></tr></thead>'
        f"<tbody>{rows}</tbody></table><h2>Card</h2><pre>{escape(text)}</pre>",
    )


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )
