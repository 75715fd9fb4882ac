"""The reference pages: the command line from its parsers, and where the public names of the package are defined."""

import argparse
import importlib
import inspect

from weight_tables import table

PUBLIC = ("zoo", "zoo.layers", "zoo.sparsity", "zoo.transforms", "zoo.analysis", "zoo.data")
"""Packages whose ``__all__`` is for users."""

BESIDE = (
    "zoo.evaluation.validate.validate",
    "zoo.evaluation.predict.predict",
    "zoo.evaluation.compare.compare",
    "zoo.data.images.load_image",
    "zoo.reparam.export.export",
    "zoo.named.load_named",
    "zoo.weights.manifest.facts",
    "zoo.training.recipe.load_recipe",
    "zoo.training.loop.train",
)
"""What else is for users, where it is."""


def command_line() -> str:
    """A section for each verb: what it does, and its arguments."""
    parser = importlib.import_module("zoo.cli").build_parser()
    (verbs,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    helps = {action.dest: action.help for action in verbs._choices_actions}
    parts = []
    for verb, parser in verbs.choices.items():
        rows = [
            [_name(action), _cell(action.help or "")]
            for action in parser._actions
            if not isinstance(action, argparse._HelpAction) and action.help is not argparse.SUPPRESS
        ]
        lines = [f"## zoo {verb}\n", f"{_sentence(helps[verb])}\n"]
        lines += [f"{_cell(parser.description)}\n"] if parser.description else []
        parts.append("\n".join([*lines, table(["argument", "meaning"], "ll", rows)]))
    return "\n".join(parts)


def _name(action: argparse.Action) -> str:
    """As it is typed."""
    words = action.option_strings or [action.metavar or action.dest]
    value = ""
    if action.option_strings and action.nargs != 0:
        value = f" {action.metavar or (','.join(map(str, action.choices)) if action.choices else action.dest.upper())}"
    elif action.choices:
        words = ["|".join(map(str, action.choices))]
    many = " ..." if action.nargs in ("+", "*") else ""
    return f"`{', '.join(words)}{value}{many}`".replace("|", "\\|")


def _cell(text: str) -> str:
    """One line that Markdown takes as it stands."""
    return " ".join(text.replace("%%", "%").split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _sentence(text: str) -> str:
    return f"{_cell(text[:1].upper() + text[1:]).rstrip('.')}."


def api() -> str:
    """What mkdocstrings is to show: each public name where it is defined, under the name that users know."""
    parts, seen = [], set()
    for package in PUBLIC:
        module = importlib.import_module(package)
        parts.append(f"## {package}\n\n{inspect.getdoc(module).splitlines()[0]}\n")
        for name in sorted(module.__all__, key=str.lower):
            value = getattr(module, name)
            if callable(value) and value not in seen:
                seen.add(value)
                parts.append(_shown(f"{value.__module__}.{value.__qualname__}", f"{package}.{name}"))
    parts.append("## Beside these\n")
    return "\n".join([*parts, *(_shown(name, name) for name in BESIDE)])


def _shown(place: str, name: str) -> str:
    return f'::: {place}\n    options:\n      heading: "{name}"\n      toc_label: "{name}"\n'
