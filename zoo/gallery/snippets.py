"""How to use a weight, as code to copy."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Snippet:
    """A piece of code.

    Attributes:
        key: Part of its id in the page.
        title: What it is for.
        note: What to know of it.
        code: The code.
    """

    key: str
    title: str
    note: str
    code: str


def snippets(record: dict[str, Any]) -> list[Snippet]:
    """Code for timm, plain layers, torch.hub, transformers and the command line.

    Args:
        record: Of the weight, as :func:`zoo.gallery.facts.all_facts` gives it.
    """
    name, dataset = record["name"], record["dataset"]
    model = f'timm.create_model("{name}", pretrained=True).eval()'
    collapsed = (record["collapsed"] or {}).get("path")
    plain = f'zoo.load_collapsed("{name}")' if collapsed else f"zoo.reparameterize({model})"
    imports = "import zoo" if collapsed else "import timm, zoo"
    folder, made = f"hub/{name}", ""
    if not any(source["kind"] == "staged" for source in record["sources"]):
        folder = f"weights/{name}"
        made = f"# zoo bundle {name} -o weights.zoo && zoo bundle --install weights.zoo --to weights\n"
    return [
        Snippet(
            "timm",
            "timm",
            "The file's sha256 is checked before it is read.",
            f"import timm, zoo  # zoo registers its architectures with timm\n\nmodel = {model}",
        ),
        Snippet(
            "plain",
            "Plain layers",
            "The same function in ordinary layers only, for export and speed.",
            f"{imports}\n\nmodel = {plain}",
        ),
        Snippet(
            "hub",
            "torch.hub",
            "From the folder of a checkout; of a published repository leave source out.",
            f'import torch\n\nmodel = torch.hub.load(".", "{name}", source="local", pretrained=True).eval()',
        ),
        Snippet(
            "transformers",
            "transformers",
            "From a folder that holds the weight with its config.json.",
            "import zoo\nfrom transformers import AutoModelForImageClassification\n\n"
            f'{made}model = AutoModelForImageClassification.from_pretrained("{folder}").eval()',
        ),
        Snippet(
            "command",
            "Command line",
            "What it says of your own image, its accuracy once more, and a folder that runs without this package.",
            f"zoo predict {name} photo.png\nzoo validate {name} --dataset {dataset} --data DIR\n"
            f"zoo deploy {name} --engine onnxruntime -o deployed",
        ),
    ]
