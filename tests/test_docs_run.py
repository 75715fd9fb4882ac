"""The documentation runs: its code blocks, its commands, its links, and the site that is made of it."""

import ast
import itertools
import pkgutil
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
import timm

import zoo
from conftest import ROOT
from zoo.cli import build_parser, main
from zoo.models import FAMILIES
from zoo.training.recipe import recipe_names
from zoo.weights.manifest import warm_starts, weights

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NEEDS = {"network", "data", "GPU", "minutes"}
LANGUAGES = {"python", "bash", "text", "json", "yaml", "toml", "nginx"}
MARK = re.compile(r"<!-- (needs|run by): (.*) -->")
OTHERS = ("bash", "python", "pip", "export", "unzip", "torchrun", "source", "mkdocs", "openssl")
"""Words besides ``zoo`` that a line of commands may begin with."""


class Block(NamedTuple):
    """A code block: what the comment before it says, its language and content."""

    page: Path
    mark: str
    value: str
    language: str
    code: str

    @property
    def lines(self) -> list[list[str]]:
        """The words of its commands."""
        joined = self.code.replace("\\\n", " ")
        return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def blocks_of(page: Path) -> list[Block]:
    found, before, lines = [], "", iter(page.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.strip().startswith("```"):
            code = []
            while (inside := next(lines)).strip() != "```":
                code.append(inside)
            mark = MARK.fullmatch(before.strip())
            text = textwrap.dedent("\n".join(code))
            found.append(Block(page, *(mark.groups() if mark else ("", "")), line.strip()[3:], text))
        before = line
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = [b for b in BLOCKS if b.language in ("python", "bash") and not b.mark]


def test_every_block_is_run_or_says_why_not():
    assert len(RUN) > 20
    for block in BLOCKS:
        assert block.language in LANGUAGES, block
        if block.language not in ("python", "bash"):
            continue
        if block.mark == "needs":
            assert {*block.value.split(", ")} <= NEEDS, block
        elif block.mark:
            assert block.page.name in (ROOT / block.value).read_text(), block
        if block.language == "python" and block.mark != "run by":
            ast.parse(block.code)
    for page in PAGES:
        marks = [block for block in BLOCKS if block.page == page and block.mark]
        assert len(marks) == len(MARK.findall(page.read_text(encoding="utf-8"))), f"{page}: a mark beside no block"


def test_every_command_is_one(capsys):
    """Each line of zoo's is parsed by the real parser; weights, recipes and files that it names exist."""
    parser, names, recipes = build_parser(), {*weights(), *warm_starts()}, {*recipe_names()}
    count = 0
    for block in (block for block in BLOCKS if block.language == "bash"):
        for words in block.lines:
            words = [*itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words)]
            if "zoo" in words and words[0] in ("torchrun", "python"):
                words = words[words.index("zoo") :]
            if words[0] != "zoo":
                assert words[0] in OTHERS, (block.page, words)
                assert all((ROOT / word).is_file() for word in words if word.startswith("scripts/")), words
                continue
            try:
                options = parser.parse_args(words[1:])
            except SystemExit:
                pytest.fail(f"{block.page.name}: {shlex.join(words)}: {capsys.readouterr().err}")
            count += 1
            if "add_a_family" not in block.page.name:
                assert {w for w in words if re.fullmatch(r"\w+\.(zoo|okankop|from)_\w+", w)} <= names, words
                if words[1] == "train":
                    assert {w for w in options.recipes if "." not in w} <= recipes, words
    assert count > 60
    verbs = {verb for action in parser._actions for verb in action.choices or () if action.dest == "command"}
    for page in PAGES:
        assert {*re.findall(r"`zoo ([a-z]+)", page.read_text(encoding="utf-8"))} <= verbs, page


@pytest.mark.parametrize("page", dict.fromkeys(block.page for block in RUN), ids=lambda page: page.stem)
def test_the_page_runs_as_it_stands(page, tmp_path, monkeypatch, capsys):
    """In one process and one folder, from the first block to the last, as somebody would who follows it."""
    monkeypatch.chdir(tmp_path)
    for name in ("hub", "hubconf.py", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    names: dict = {"__name__": "page"}
    for block in (block for block in RUN if block.page == page):
        if block.language == "python":
            exec(compile(block.code, page.name, "exec"), names)
            continue
        for words in block.lines:
            assert words[0] == "zoo", f"{page.name}: {shlex.join(words)}: a mark should say what this needs"
            assert main(words[1:]) == 0, f"{shlex.join(words)}: {capsys.readouterr().err}"
            assert capsys.readouterr().out or "-o" in words, words


def test_the_site_is_whole_and_asks_no_other_machine(tmp_path):
    """Links, anchors and the API's names are checked by mkdocs, whose warnings are errors (``strict``)."""
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", tmp_path / "site"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    html = {path.relative_to(tmp_path / "site"): path.read_text() for path in (tmp_path / "site").rglob("*.html")}
    assert {path.with_suffix(".md").name for path in html} >= {page.name for page in PAGES[1:]}
    for path, text in html.items():
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']?([^\"' >]+)", text)
        loaded += re.findall(r"<link[^>]*\shref=[\"']?([^\"' >]+)", text)
        away = [address for address in loaded if re.match(r"(https?:)?//", address)]
        assert not away, f"{path} loads {away}"
    styles = "".join(path.read_text() for path in (tmp_path / "site").rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", styles)
    assert "symmetrize" in (tmp_path / "site" / "search" / "search_index.json").read_text()
    shown = html[Path("api.html")]
    assert not re.search(r":(class|func|data|meth|mod):", shown), "a role of Sphinx's"
    assert all(f"zoo.{name}" in shown for name in zoo.__all__ if callable(getattr(zoo, name)))


def test_pages_that_code_and_readme_name_exist():
    code = [path for folder in ("zoo", "scripts", "tests", "benchmarks", "examples", "eval", "hub", "checkpoints")
            for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml", ".md", ".sh")]  # fmt: skip
    for path in [*code, *ROOT.glob("*.md"), *ROOT.glob("*.yml"), ROOT / "hubconf.py"]:
        for name in re.findall(r"\bdocs/[a-z_0-9/]+\.(?:md|png)", path.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{path} names {name}"


def test_anchors_of_the_readme_exist():
    for page, anchor in re.findall(r"\]\((docs/[\w/]+\.md)#([^)]+)\)", (ROOT / "README.md").read_text()):
        titles = re.findall(r"^#+ (.*)", (ROOT / page).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


def test_no_name_of_ours_is_one_of_timms():
    """What the questions say: neither an architecture nor a module."""
    assert not [name for name in zoo.list_models() if hasattr(timm.models, name)]
    modules = {module.name for module in pkgutil.iter_modules(timm.models.__path__)}
    assert not modules & {module for found in FAMILIES.values() for module in found}
