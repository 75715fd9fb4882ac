"""For mkdocs: docstrings name classes and functions as Sphinx does, and pages show the name alone."""

import re


def on_page_content(html: str, **_: object) -> str:
    """``:class:`X``` as ``X``."""
    return re.sub(r":(?:class|func|meth|data|attr|mod|exc):<code>[~.]*", "<code>", html)
