"""Model cards, written from the manifest so that no number is typed twice."""

import json
from typing import Any

from ..data.catalog import get_dataset
from .manifest import paper_of, paper_url


def model_card(name: str, entry: dict[str, Any]) -> str:
    """The ``README.md`` of a weight's Hub repository.

    Args:
        name: ``arch.tag``.
        entry: Its facts.
    """
    data, params = get_dataset(entry["dataset"]), entry["params"]
    front = ["tags: [image-classification, timm, repara-zoo]", "library_name: repara-zoo"]
    front += [f"license: {entry['licence'].lower()}", f"datasets: [{data.name}]", "metrics: [accuracy]"]
    measured = [_result_line(result) for result in entry["results"]]
    if entry["results"]:
        front.append("model-index:\n" + _model_index(name, entry))
    published = entry.get("paper_result")
    lines = [
        "---",
        *front,
        "---",
        "",
        f"# {name}",
        "",
        f"`{entry['description'].replace(' ', '` ', 1)}.",
        "",
        f"- Paper: {paper_of(entry)['title']}, {paper_url(entry)}",
        f"- Origin: {entry['origin_url'] or 'this project'}",
        f"- Licence of the weight: {entry['licence']} ({entry['licence_source']})",
        f"- Data: {data.name} ({data.licence})",
        f"- Parameters: {params['stored']:,} stored, {params['unique']:,} unique, {params['nonzero']:,} not zero, "
        f"{params['inference']:,} as a plain network at inference",
        f"- File: `model.safetensors`, {entry['size']:,} bytes, sha256 `{entry['sha256']}`",
        "",
        "## Accuracy",
        "",
        *(measured or ["Not measured by this project."]),
    ]
    if published:
        lines += [
            "",
            f"For comparison: {published['top1']:.2f} % top-1 on {published['dataset']}, {published['note']}.",
        ]
    if entry.get("recipe"):
        lines += ["", "## Training", "", f"Recipe `{entry['recipe']}` (`zoo train {entry['recipe']}`)."]
        lines += ["The log of every epoch is `training_log.jsonl`, the curve `curve.png`."]
    image = entry["preprocessing"]
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "import timm, zoo  # zoo registers the architecture",
        "",
        f'model = timm.create_model("{name}", pretrained=True).eval()',
        "```",
        "",
        f"Input: {'x'.join(map(str, image['input_size']))}, pixels scaled to [0, 1], mean {image['mean']}, "
        f"standard deviation {image['std']}.",
        "",
    ]
    return "\n".join(lines)


def _result_line(result: dict[str, Any]) -> str:
    low, high = result["interval95"]
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items() if k in ("torch", "timm", "zoo"))
    return (
        f"{result['top1']:.2f} % top-1 and {result['top5']:.2f} % top-5 on the {result['split']} split of "
        f"{result['dataset']}: {result['correct']:,} of {result['n']:,} images, 95 % interval {low} to {high}, "
        f"measured {result['date']} with {versions}."
    )


def _model_index(name: str, entry: dict[str, Any]) -> str:
    index = [
        {
            "name": name,
            "results": [
                {
                    "task": {"type": "image-classification"},
                    "dataset": {"name": r["dataset"], "type": r["dataset"], "split": r["split"]},
                    "metrics": [{"type": "accuracy", "value": r["top1"], "name": "top-1"}],
                }
                for r in entry["results"]
            ],
        }
    ]
    return "  " + json.dumps(index)  # JSON is YAML
