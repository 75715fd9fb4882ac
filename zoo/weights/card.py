"""Model cards, written from the manifest so that no number is typed twice."""

from collections.abc import Collection
from typing import Any

from ..data.catalog import get_dataset
from .manifest import paper_of, paper_url, trained_by
from .packed import PACKED

_FILES = {
    "model.collapsed.safetensors": "the same function in plain layers (`zoo.load_collapsed`)",
    "equivalence.json": "how equal the two are, in numbers, and what each costs",
    "predictions.npz": "what it says of every test image: class, probability, right or not (`zoo compare`)",
    PACKED: "`model.safetensors` without what is redundant in it; unpacked (`zoo pack --unpack`), bit for bit the same",
    "recipe.json": "the recipe it was trained with, in full",
    "seeds_log.jsonl": "the logs of the runs with other seeds",
    "LICENSE": "the text of the licence",
}


def model_card(name: str, entry: dict[str, Any], repo: str | None = None, files: Collection[str] = ()) -> str:
    """The ``README.md`` of a weight's Hub repository.

    Args:
        name: ``arch.tag``.
        entry: Its facts.
        repo: ``organisation/name``, once there is such a repository; without it the card does not speak of one.
        files: Names of the files beside ``model.safetensors`` that are to be explained.
    """
    data, params, image = get_dataset(entry["dataset"]), entry["params"], entry["preprocessing"]
    published = entry.get("paper_result")
    collapsed = (entry.get("collapsed") or {}).get("path")
    lines = [
        "---",
        _metadata(name, entry, data.name),
        "---",
        "",
        f"# {name}",
        "",
        f"`{entry['description'].replace(' ', '` ', 1)}.",
        "",
        f"- Paper: {paper_of(entry)['title']}, {paper_url(entry)}",
        f"- Origin: {entry['origin_url'] or trained_by(entry)}",
        f"- Licence of the weight: {entry['licence']} ({entry['licence_source']})",
        f"- Data: {data.name} ({data.licence})",
        f"- Parameters: {params['stored']:,} stored, {params['unique']:,} unique, {params['nonzero']:,} not zero, "
        f"{params['inference']:,} as a plain network with batch norms folded",
        f"- File: `model.safetensors`, {entry['size']:,} bytes{_dtype(entry)}, sha256 `{entry['sha256']}`",
        *(f"- `{file}`: {_FILES[file]}{_bytes_of(file, entry)}" for file in _FILES if file in files),
        "",
        "## Accuracy",
        "",
        *([_result_line(result) for result in entry["results"]] or ["Not measured by this project."]),
        *(_seeds_lines(entry["seeds"]) if "seeds" in entry else []),
    ]
    if published:
        lines += [
            "",
            f"For comparison: {published['top1']:.2f} % top-1 on {published['dataset']}, {published['note']}.",
        ]
    if entry.get("recipe") or "recipe.json" in files:
        recipe = f"`{entry['recipe']}`" if entry.get("recipe") else "in `recipe.json`, in full"
        lines += ["", "## Training", "", f"Recipe {recipe} (`zoo train {entry.get('recipe') or 'recipe.json'}`)."]
        if "training_log.jsonl" in files:
            lines += ["The log of every epoch is `training_log.jsonl`, the curve `curve.png`."]
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "import timm, zoo  # zoo registers the architecture",
        "",
        f'model = timm.create_model("{name}", pretrained=True).eval()',
        *([f'model = timm.create_model("hf-hub:{repo}", pretrained=True).eval()  # the same'] if repo else []),
        *([f'plain = zoo.load_collapsed("{name}")  # the same function in plain layers'] if collapsed else []),
        "```",
        "",
        f"Input: {'x'.join(map(str, image['input_size']))}, pixels scaled to [0, 1], mean {image['mean']}, "
        f"standard deviation {image['std']}.",
        "",
    ]
    return "\n".join(lines)


def _metadata(name: str, entry: dict[str, Any], dataset: str) -> str:
    """The YAML that the Hub reads; what was measured becomes its ``model-index``."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-classification",
            dataset_name=result["dataset"],
            dataset_type=result["dataset"],
            dataset_split=result["split"],
            metric_type="accuracy",
            metric_name=figure.replace("top", "top-"),
            metric_value=result[figure],
        )
        for result in entry["results"]
        for figure in ("top1", "top5")
    ]
    card = ModelCardData(
        tags=["image-classification", "timm", "repara-zoo"],
        pipeline_tag="image-classification",
        library_name="repara-zoo",
        license=entry["licence"].lower(),
        datasets=[dataset],
        metrics=["accuracy"],
        **({"model_name": name, "eval_results": results} if results else {}),
    )
    return card.to_yaml()


def _bytes_of(file: str, entry: dict[str, Any]) -> str:
    """Parameters, size and sha256 of a file beside the weight's, as the manifest has them."""
    forms = (entry.get(form) for form in ("packed", "collapsed", "predictions"))
    form = next((f for f in forms if f and f["path"] == file), None)
    if not form:
        return ""
    count = f"; {form['parameters']:,} parameters" if "parameters" in form else ""
    return f"{count}; {form['size']:,} bytes, sha256 `{form['sha256']}`"


def _dtype(entry: dict[str, Any]) -> str:
    return f" in {entry['storage']['dtype']}" if "storage" in entry else ""


def _seeds_lines(seeds: dict[str, Any]) -> list[str]:
    runs = ", ".join(f"{run['top1']:.2f} (seed {run['seed']})" for run in seeds["runs"])
    mean = f"mean {seeds['mean']:.2f} %, standard deviation {seeds['std']:.2f}"
    return ["", f"The recipe with {len(seeds['runs'])} seeds, this weight's first: top-1 {runs}; {mean}."]


def _result_line(result: dict[str, Any]) -> str:
    low, high = result["interval95"]
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items() if k in ("torch", "timm", "zoo"))
    more = "".join(
        f", {words} {result[key]:.{digits}f}{unit}"
        for key, words, digits, unit in (
            ("nll", "negative log-likelihood", 4, ""),
            ("calibration_error", "calibration error", 2, " % (15 bins)"),
        )
        if key in result
    )
    return (
        f"{result['top1']:.2f} % top-1 and {result['top5']:.2f} % top-5 on the {result['split']} split of "
        f"{result['dataset']}: {result['correct']:,} of {result['n']:,} images, 95 % interval {low} to {high}{more}, "
        f"measured {result['date']} with {versions}."
    )
