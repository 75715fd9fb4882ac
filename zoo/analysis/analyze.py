"""``zoo analyze``: what there is to see in a network, as pictures and numbers in a folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ZooError
from ..evaluation.validate import validate
from ..extras import headless_pyplot
from ..files import folder_in_making, place_of_result
from ..makers.base import made_tensors
from ..named import Named
from ..version import __version__
from ..weights.paths import hub_folder
from . import draw
from .branches import branch_norms, branched_layers, gate_histograms
from .density import density_history, layer_densities, read_log
from .sharing import sharing_facts
from .spectrum import kernel_spectra
from .symmetry import symmetry_patterns

FACTS = "analysis.json"
_PRODUCER = "zoo analyze"
_FORMS = {"png": {"Software": None}, "svg": {"Date": None}}

DRAWINGS: dict[str, Callable[[dict[str, Any], str], Any]] = {
    "similarity": draw.similarity,
    "coefficients": draw.coefficients,
    "symmetry": draw.symmetry,
    "density": draw.density,
    "density_in_training": draw.density_in_training,
    "branch_norms": draw.branch_norms,
    "gates": draw.gates,
    "singular_values": draw.singular_values,
}
"""What is drawn, by subject."""


def analyze(
    found: Named, folder: str | Path, *, dataset: str = "", data: str | Path | None = None, limit: int = 0
) -> dict[str, Any]:
    """Draw what there is to see in a network: of each subject that applies a PNG and an SVG, and ``analysis.json``.

    The folder appears when everything in it is there; one that this function wrote before is replaced.

    Args:
        found: The network, as :func:`zoo.named.load_named` gives it.
        folder: Of the result.
        dataset: Name of the data set that gates are seen on; by default what the network was trained on.
        data: Its folder; None for no gates.
        limit: See the gates on the first so many images only; 0 for all.

    Returns:
        What ``analysis.json`` holds: the numbers behind each picture by subject, and ``left_out``, why there is no
        picture of a subject.

    Raises:
        ZooError: If matplotlib is missing, the folder is somebody else's or cannot be written, a log cannot be read, or
            the data do not fit.
    """
    pyplot = headless_pyplot()
    folder = place_of_result(Path(folder).expanduser(), _PRODUCER, FACTS, lambda known: known["files"])
    dataset = dataset or found.dataset
    if data is not None and not dataset:
        raise ZooError(f"{found.name}: nothing says what it was trained on; add --dataset NAME to --data DIR.")
    subjects = _subjects(found, dataset, data, limit)
    drawn = {name: facts for name, facts in subjects.items() if isinstance(facts, dict)}
    facts = {"producer": _PRODUCER, "version": __version__, "name": found.name, "sha256": found.sha256}
    facts["made"] = bool(made_tensors(found.model) or branched_layers(found.model))
    facts["files"] = [f"{name}.{form}" for name in drawn for form in _FORMS]
    facts |= drawn | {"left_out": {name: why for name, why in subjects.items() if isinstance(why, str)}}
    with folder_in_making(folder) as part:
        (part / FACTS).write_text(json.dumps(facts) + "\n", encoding="utf-8")
        for name, numbers in drawn.items():
            with pyplot.rc_context({"svg.hashsalt": name}):
                figure = DRAWINGS[name](numbers, found.name)
                for form, metadata in _FORMS.items():
                    figure.savefig(part / f"{name}.{form}", dpi=110, metadata=metadata, bbox_inches="tight")
                pyplot.close(figure)
    return facts


def _subjects(found: Named, dataset: str, data: str | Path | None, limit: int) -> dict[str, dict[str, Any] | str]:
    """Of each subject its numbers, or why there is nothing to draw."""
    model = found.model
    shared, patterns, layers = sharing_facts(model), symmetry_patterns(model), layer_densities(model)
    moved, norms = density_history(_log(found) if layers else [], layers), branch_norms(model)
    gated = bool(branched_layers(model, gated=True))
    seen: dict[str, dict[str, Any] | str] = {
        "similarity": shared if shared["layers"] else "no layers share a bank of templates",
        "coefficients": {"spectrum": shared["spectrum"]} if shared["layers"] else "no layers share a bank of templates",
        "symmetry": patterns if patterns["layers"] else "no kernel is symmetric or tied",
        "density": {"layers": layers} if layers else "no layer is sparse (has a mask)",
        "density_in_training": moved if moved["epochs"] else "no log of a training that moved the weights of a mask",
        "branch_norms": {"layers": norms} if norms else "no layer has parallel branches",
        "gates": "no layer has a gate (PD-B)",
        "singular_values": {"layers": kernel_spectra(model)},
    }
    if not seen["singular_values"]["layers"]:
        seen["singular_values"] = "no convolution and no linear layer"
    if gated and data is None:
        seen["gates"] = "the gates are seen on a data set: add --dataset NAME and --data DIR"
    elif gated:
        options = {"name": found.name, "limit": limit}
        histograms = gate_histograms(model, lambda: validate(model, dataset, data, **options), limit)
        seen["gates"] = {"dataset": dataset, "layers": histograms}
    return seen


def _log(found: Named) -> list[dict[str, Any]]:
    """The lines of the log of the training, if it lies beside the network."""
    return read_log(found.folder or hub_folder() / found.name)
