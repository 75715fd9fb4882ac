"""Writing the files of a site: pages from templates, and data as scripts.

A page opened from the disk may load scripts and pictures that lie beside it, but not read files: so what a page's
scripts need is itself a script, which puts one value under a key of the global ``ZOO``.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from ..extras import require
from ..version import __version__
from .words import FILTERS

HERE = Path(__file__).parent
DATA = "data"


class Site:
    """A folder of pages that is being written.

    Args:
        folder: An empty folder.
        common: What every template is given.

    Raises:
        ZooError: If jinja2 is not installed.
    """

    def __init__(self, folder: Path, **common: Any):
        jinja2 = require(module="jinja2", extra="gallery")
        self.folder = folder
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= FILTERS
        self._environment.globals |= {"version": __version__, **common}

    def page(self, path: str, template: str, **context: Any) -> None:
        """Write a page.

        Args:
            path: Of the page in the site, such as ``weights/NAME.html``.
            template: Name of its template.
            **context: What only this page is given; ``root`` leads from it to the site's folder.
        """
        root = "../" * path.count("/")
        text = self._environment.get_template(template).render(root=root, path=path, **context)
        self._write(path, text)

    def data(self, key: str, value: Any) -> str:
        """Write a value for scripts to use as ``ZOO[key]``; returns the path of its file."""
        path = f"{DATA}/{key}.js"
        self._write(path, f"(window.ZOO=window.ZOO||{{}})[{_script(key)}]={_script(value)};\n")
        return path

    def copy_static(self) -> None:
        """Bring the style sheet and the scripts, our own and others' with their licences."""
        for name in ("static", "vendor"):
            shutil.copytree(HERE / name, self.folder / name, ignore=shutil.ignore_patterns("*.py", "__pycache__"))

    def _write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _script(value: Any) -> str:
    """JSON that may stand in a script, and nowhere ends it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
