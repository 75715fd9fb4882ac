"""What a recipe's weight is compared with: the paper's figure, and twins trained by the same recipe.

These are facts about a recipe and no part of the training: bases do not hand them on, and runs do not record them.
Staging puts them into the manifest.
"""

from pathlib import Path
from typing import Any

from ..data import get_dataset
from ..errors import UnknownNameError, ZooError
from .recipe import Recipe, about, load_recipe, read_recipe

PUBLISHED = ("top1", "perplexity", "std", "runs", "source")
"""Keys of ``published``, see :func:`published_of`."""

MAY_DIFFER = ("weight", "model_args", "method", "method_options", "masks_from")
"""Keys in which twins may differ: which network it is, and how its sparse weights move."""


def published_of(name: str | Path) -> dict[str, Any]:
    """The result that a paper reports for exactly this recipe, from its key ``published``.

    Returns:
        ``source`` and, as far as the paper says them, ``top1`` in percent (of a language model ``perplexity`` on the
        test text), ``std`` and ``runs``; empty for a recipe that no paper has.

    Raises:
        UnknownNameError: If there is no such recipe or base.
        ZooError: If the entry is not such a mapping.
    """
    path, values = about(name)
    published = values.get("published") or {}
    if not isinstance(published, dict) or (published and "source" not in published) or {*published} - {*PUBLISHED}:
        raise ZooError(f"{path}: published is a mapping with source, and {', '.join(PUBLISHED[:-1])} where known.")
    return published


def twins_of(name: str | Path) -> list[str]:
    """Names of the recipes that train other networks in the same way, for comparison, from a recipe's key ``twins``.

    Raises:
        UnknownNameError: If there is no such recipe, base or twin.
        ZooError: If it is not a list of names, or a twin is trained otherwise.
    """
    path, values = about(name)
    twins = values.get("twins") or []
    if not isinstance(twins, list) or not all(isinstance(twin, str) for twin in twins):
        raise ZooError(f"{path}: twins is a list of names of recipes.")
    twins = [str(path.parent / twin) if twin.endswith((".yaml", ".yml")) else twin for twin in twins]
    own = read_recipe(name)[1]
    for twin in twins:
        other = read_recipe(twin)[1]
        different = sorted(k for k in {*own, *other} - {*MAY_DIFFER} if own.get(k) != other.get(k))
        if different:
            raise ZooError(f"{path}: {twin} is no twin, it differs in {', '.join(different)}.")
    return twins


def remark_of(name: str | Path) -> str:
    """The sentence that explains why our figure is not the paper's, from a recipe's key ``remark``; empty without one.

    Raises:
        UnknownNameError: If there is no such recipe or base.
    """
    return " ".join(str(about(name)[1].get("remark") or "").split())


def comparison(recipe: Recipe, name: str | Path, weights: dict[str, Any]) -> dict[str, Any]:
    """The part of a manifest entry that says what a weight is compared with.

    Args:
        recipe: Of the weight.
        name: Of the recipe, or its file; empty if nothing but the run has it, which then has no twins.
        weights: The manifest's.

    Returns:
        ``epochs`` and ``paper_result`` (see :func:`paper_result`), ``twins`` (``arch.tag`` each) and ``remark`` where
        there are any.
    """
    facts: dict[str, Any] = {"epochs": recipe.epochs, "paper_result": paper_result(recipe, name, weights)}
    if not name:
        return facts
    twins, remark = [load_recipe(twin).weight for twin in twins_of(name)], remark_of(name)
    return facts | ({"twins": twins} if twins else {}) | ({"remark": remark} if remark else {})


def paper_result(recipe: Recipe, name: str | Path, weights: dict[str, Any]) -> dict[str, Any] | None:
    """The paper's figure that a weight is compared with, or None.

    It is that of the recipe; of the ``published`` recipe of the same setting; or of the authors' own weight of the same
    architecture and data set, in the manifest. What is staged has its own recipe and hands nothing on.
    """
    start, _, data = Path(name).stem.rpartition("_")
    for candidate in (name, f"{start}_published_{data}") if name else ():
        try:
            published = published_of(candidate)
        except UnknownNameError:
            continue
        if "top1" in published:
            mean = f", mean of {published['runs']} runs" if published.get("runs") else ""
            note = f"{published['source']}{mean}"
            return {"dataset": recipe.dataset, "top1": published["top1"], "note": note}
    arch, dataset = recipe.weight.split(".", 1)[0], get_dataset(recipe.dataset).name
    return next(
        (
            entry["paper_result"]
            for name, entry in weights.items()
            if (name.split(".", 1)[0], entry["dataset"]) == (arch, dataset)
            and entry["paper_result"]
            and not any(source["kind"] == "staged" for source in entry["sources"])
        ),
        None,
    )


RECIPE_COLUMNS = ("recipe", "data set", "epochs", "method", "paper, top-1 % or perplexity")
"""Titles of what :func:`recipe_cells` returns."""


def recipe_overview(name: str) -> dict[str, Any]:
    """A recipe's ``name``, the ``recipe`` with what its bases give, and what is ``published`` of it, or None.

    Raises:
        UnknownNameError: If there is no such recipe or base.
    """
    return {"name": name, "recipe": read_recipe(name)[1], "published": published_of(name) or None}


def recipe_cells(entry: dict[str, Any]) -> list[str]:
    """What :func:`recipe_overview` returns as a line of a table, in the order of :data:`RECIPE_COLUMNS`."""
    values, published = entry["recipe"], entry["published"]
    figure = ""
    if published:
        measured = next((published[key] for key in ("top1", "perplexity") if key in published), None)
        figure = "published setting" if measured is None else f"{measured:.2f}"
        if "std" in published:
            figure += f" ± {published['std']}"
    method = values.get("task") or values.get("method", "")
    return [entry["name"], values["dataset"], str(values.get("epochs", "")), method, figure]
