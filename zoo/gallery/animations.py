"""The animated picture of each family, made from real weights: a figure of plotly's with frames, and words."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import HashMismatchError, ZooError
from ..weights.manifest import weights
from .at_hand import check_here, load_here

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Frames = list[dict[str, Any]]
_SHOWN = 8  # channels in and out of a kernel that are drawn
_GAP = 0.03  # between panels, of the figure's width
_KEY = "Red is positive, blue negative."
_COLOURS = [[0, "#2166ac"], [0.25, "#92c5de"], [0.5, "#f7f7f7"], [0.75, "#f4a582"], [1, "#b2182b"]]


def animation(family: str) -> dict[str, Any] | None:
    """What ``_animation.html`` draws of a family.

    Args:
        family: As the manifest has it.

    Returns:
        ``weight``, whose weights are drawn, and ``figure`` (``data``, ``layout`` and ``frames``, each with its ``name``
        in words), ``title`` and ``caption``; or ``reason``, why there is no figure, such as a weight that is not on
        this machine. None where there is nothing to draw of this family.

    Raises:
        HashMismatchError: If the weight's file is not the manifest's.
    """
    if family not in PICTURES:
        return None
    weight, _ = PICTURES[family]
    try:
        check_here(weight)
        return {"weight": weight, **_drawn(family, weights()[weight]["sha256"])}
    except HashMismatchError:
        raise
    except ZooError as error:
        return {"weight": weight, "reason": str(error)}


@functools.cache
def _drawn(family: str, sha256: str) -> dict[str, Any]:
    """``title``, ``caption`` and ``figure``; kept, as several sites may be built by one process."""
    weight, draw = PICTURES[family]
    return draw(load_here(weight), weight)


def _branches(model: "nn.Module", weight: str) -> dict[str, Any]:
    """ParaDise: branch after branch is added, until there is one kernel."""
    from ..analysis.branches import branched_layers

    name, layer = next((n, m) for n, m in branched_layers(model).items() if m.in_channels == m.out_channels)
    skeleton = layer.branches["skeleton"]
    parts = {
        "the first 3x3 branch": layer.branches["standard1"].fold()[0],
        "the second 3x3 branch": layer.branches["standard2"].fold()[0],
        "the 3x1 branch": skeleton.vertical.fold()[0],
        "the 1x3 branch": skeleton.horizontal.fold()[0],
        "the 3x3 branch in groups": layer.branches["group"].fold()[0],
    }
    kernel = layer.fuse().weight.detach().double()
    total, frames, limit = 0 * kernel, [], _limit(*parts.values(), kernel)
    for count, (title, part) in enumerate(parts.items(), 1):
        total = total + part
        frames.append(_frame(f"{count} of {len(parts)}: {title}", _tiles(part), _tiles(total)))
    gap = (total - kernel).abs().max().item()
    frames.append(_frame("zoo.reparameterize keeps this one kernel", _tiles(kernel), _tiles(total)))
    return {
        "figure": _heatmaps(("a branch", "the sum so far"), frames, limit),
        "title": "Five branches become one kernel",
        "caption": (
            f"{name} of {weight}, kernels from {_SHOWN} input channels (across) to {_SHOWN} output channels (down), "
            "each 3x3 with its branch's batch norm folded into it. Left, the branch that is being added; right, the "
            "sum so far. The last step shows on the left the kernel that zoo.reparameterize keeps: no entry differs "
            f"from the sum by more than {gap:.0e}. {_KEY}"
        ),
    }


def _templates(model: "nn.Module", weight: str) -> dict[str, Any]:
    """SWRN: each layer's mixture of the same templates."""
    from ..layers.sharing import sharing_groups

    group = max(sharing_groups(model), key=lambda g: len(g.convs))
    templates = group.bank.templates.detach().double()[:2]
    if group.bank.num_templates != len(templates):
        raise ZooError(f"{weight}: {group.name} has {group.bank.num_templates} templates, and two are drawn.")
    kernels = [conv.weight.detach().double() for conv in group.convs.values()]
    frames = []
    for layer, (a, b), kernel in zip(group.convs, group.coefficients.tolist(), kernels, strict=True):
        words = f"{layer}: {a:.2f} of the first, {b:.2f} of the second"
        frames.append(_frame(words, *map(_tiles, (*templates, kernel))))
    # each panel by its own largest entry: what mixes is the pattern, and coefficients carry the size
    limits = [_limit(templates[0]), _limit(templates[1]), _limit(*kernels)]
    return {
        "figure": _heatmaps(("template 1", "template 2", "the kernel"), frames, limits),
        "title": "Templates mixed into kernels",
        "caption": (
            f"The bank {group.name} of {weight} has {group.bank.num_templates} templates (left and middle, the same in "
            f"every step), and {len(group.convs)} layers learned only how much of each they take. Right, the kernel "
            f"that comes of it, layer by layer: {_SHOWN} input channels across, {_SHOWN} output channels down, each "
            f"3x3. {_KEY}"
        ),
    }


def _mirrored(model: "nn.Module", weight: str) -> dict[str, Any]:
    """Symmetric: what is learned, then what repeats it, from the diagonal outwards."""
    import numpy as np

    from ..analysis.symmetry import value_of_entries
    from ..makers.base import made_tensors, maker_of

    name, layer = next((n, m) for n, m, tensor in made_tensors(model) if getattr(m, tensor).dim() == 4)
    kernel, ids = layer.weight.detach().double(), value_of_entries(maker_of(layer)).numpy()
    if kernel.shape[0] != kernel.shape[1]:
        raise ZooError(f"{weight}: {name} is not square.")
    learned = np.zeros(ids.size, bool)
    learned[np.unique(ids, return_index=True)[1]] = True
    learned = learned.reshape(ids.shape)
    distance = np.abs(np.subtract.outer(np.arange(len(ids)), np.arange(len(ids))))[:, :, None, None]
    start, last = _tiles(kernel, len(ids), learned), int(distance.max())
    frames = [_frame("what is learned and stored", start, start)]
    for reach in [*range(2, last, 3), last]:
        words = "the whole kernel" if reach == last else f"mirrored, {reach} channels deep"
        frames.append(_frame(words, start, _tiles(kernel, len(ids), learned | (distance <= reach))))
    return {
        "figure": _heatmaps(("learned", "the kernel"), frames, _limit(kernel)),
        "title": "A kernel mirrored",
        "caption": (
            f"{name} of {weight}: {len(ids)} input channels across, {len(ids)} output channels down, each 3x3. Left, "
            f"the {learned.sum():,} values that are learned; right, the mirror image is filled in from the diagonal "
            f"outwards, until all {ids.size:,} entries of the kernel are there. Blank is not there yet. {_KEY}"
        ),
    }


def _moving(model: "nn.Module", weight: str) -> dict[str, Any]:
    """Sparse: the density of each layer, epoch after epoch, from the log of the training."""
    from ..analysis.density import density_history, layer_densities, read_log
    from ..weights.paths import hub_folder

    history = density_history(read_log(hub_folder() / weight), layer_densities(model))
    if not history["epochs"]:
        raise ZooError(f"The log of {weight}'s training is not on this machine.")
    layers, epochs, last = list(history["density"]), history["epochs"], len(history["epochs"]) - 1
    chosen = sorted({round((k / 11) ** 2 * last) for k in range(12)})  # most weights move early
    tops = {layer: max(values) for layer, values in history["density"].items()}
    frames = [
        {
            "name": f"epoch {epochs[k]}: {history['moved'][k]:,} weights moved at its last step",
            "data": [{"x": [round(100 * history["density"][layer][k], 3) for layer in layers]}],
        }
        for k in chosen
    ]
    bars = {"type": "bar", "orientation": "h", "y": layers, "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>"}
    layout = {
        "xaxis": {"title": {"text": "% of its weights on"}, "range": [0, 105 * max(tops.values())]},
        "yaxis": {
            "autorange": "reversed",
            "automargin": True,
            "tickfont": {"size": 10},
            "type": "category",
            "showgrid": False,
        },
        "margin": {"l": 10, "r": 10, "t": 10, "b": 45},
        "height": 120 + 18 * len(layers),
    }
    budget = sum(f["active"] for f in layer_densities(model))
    return {
        "figure": {"data": [bars], "layout": layout, "frames": frames},
        "title": "Weights that move",
        "caption": (
            f"The training of {weight}, from its log: how many of each layer's weights are on. All layers began "
            "equally sparse. Again and again the smallest weights were taken out and as many put in elsewhere, so that "
            f"{budget:,} stayed on in all; the network itself found out which layers need them."
        ),
    }


def _again(model: "nn.Module", weight: str) -> dict[str, Any]:
    """LruNet: an image's features after each run of one block, whose kernels are the same in every run."""
    import torch

    stage, image = model.stages[0], _sample(model)
    runs = len(stage.block.dw_bns)
    with torch.no_grad():
        before = model.stem(image)
        before = torch.cat([before, before], 1) if stage.duplicate else before
        maps = [before] + [_with_runs(stage.block, count)(before) for count in range(1, runs + 1)]
    kernels = stage.block.dw.weight.detach().double()[: _SHOWN**2].view(_SHOWN, _SHOWN, 3, 3)
    shown = [features[0, :16].double().view(4, 4, *features.shape[2:]) for features in maps]
    words = ["before the first run", *(f"after run {k} of {runs}, with the same kernels" for k in range(1, runs + 1))]
    frames = [_frame(w, _tiles(kernels), _tiles(m)) for w, m in zip(words, shown, strict=True)]
    return {
        "figure": _heatmaps(("the same kernels", "16 channels"), frames, [_limit(kernels), _limit(*shown)]),
        "title": "A block run again",
        "caption": (
            f"An ankle boot of Fashion-MNIST's test set goes through the first stage of {weight}. Its one block is run "
            f"{runs} times on its own output. Left, {_SHOWN**2} of its 3x3 kernels, which never change; right, 16 of "
            f"the {maps[0].shape[1]} channels after each run. {_KEY}"
        ),
    }


def _with_runs(block: "nn.Module", runs: int) -> "nn.Module":
    """A reuse block that stops after so many runs."""
    import copy

    shorter = copy.copy(block)
    shorter._modules = {**block._modules, "dw_bns": block.dw_bns[:runs], "pw_bns": block.pw_bns[:runs]}
    return shorter


def _sample(model: "nn.Module") -> "Tensor":
    """The first image of Fashion-MNIST's test set, as a network takes it."""
    import torch

    from ..data.arrays import read_arrays
    from ..data.images import normalised
    from .try_page import SAMPLE

    images = read_arrays("fashion-mnist", SAMPLE, "test").images
    return normalised(torch.from_numpy(images[:1]), model.pretrained_cfg)


PICTURES: dict[str, tuple[str, Callable[["nn.Module", str], dict[str, Any]]]] = {
    "lrunet": ("lrunet10_100.zoo_fmnist", _again),
    "paradise": ("pd_a_resnet18_half_cifar.zoo_e6_c10", _branches),
    "sharing": ("swrn_28_1_2.zoo_c10", _templates),
    "sparse": ("sparse_wrn_28_2.zoo_dsr_s90_c10", _moving),
    "symmetry": ("symm_wrn_16_1.zoo_c10", _mirrored),
}
"""By family, the weight that is drawn and how."""


def _tiles(kernel: "Tensor", side: int = _SHOWN, there: "np.ndarray | None" = None) -> list[list[float | None]]:
    """Of (out, in, rows, columns) the first ``side`` channels each way, in one picture with gaps between them."""
    import numpy as np

    values = np.array(kernel.numpy(), float)
    values[~np.broadcast_to(True if there is None else there, values.shape)] = np.nan
    values = np.pad(values[:side, :side], ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    out, into, rows, columns = values.shape
    picture = values.transpose(0, 2, 1, 3).reshape(out * rows, into * columns)[:-1, :-1]
    return [[None if np.isnan(v) else float(f"{v:.3g}") for v in row] for row in picture]


def _limit(*kernels: "Tensor") -> float:
    """The end of a colour scale: what one entry in a hundred goes beyond."""
    import torch

    return float(f"{max(torch.quantile(k.abs().flatten()[:100_000], 0.99).item() for k in kernels) or 1:.3g}")


def _frame(name: str, *pictures: list[list[float | None]]) -> dict[str, Any]:
    return {"name": name, "data": [{"z": z} for z in pictures]}


def _heatmaps(titles: tuple[str, ...], frames: Frames, limits: float | list[float]) -> dict[str, Any]:
    """Pictures beside each other, that change from frame to frame."""
    width = (1 - _GAP * (len(titles) - 1)) / len(titles)
    limits = limits if isinstance(limits, list) else [limits] * len(titles)
    data, layout = [], {"margin": {"l": 4, "r": 4, "t": 34, "b": 4}, "annotations": []}
    for k, (title, limit) in enumerate(zip(titles, limits, strict=True)):
        end = "" if k == 0 else str(k + 1)
        left = k * (width + _GAP)
        scale = {"zmin": -limit, "zmax": limit, "colorscale": _COLOURS, "showscale": False}
        axes = {"xaxis": f"x{end}", "yaxis": f"y{end}"}
        data.append({"type": "heatmap", **axes, **scale, "hoverinfo": "z"})
        hidden = {"visible": False, "fixedrange": True}
        layout[f"xaxis{end}"] = hidden | {"domain": [left, left + width], "constrain": "domain"}
        layout[f"yaxis{end}"] = hidden | {"scaleanchor": f"x{end}", "autorange": "reversed", "constrain": "domain"}
        layout["annotations"].append(
            {
                "text": title,
                "font": {"size": 12},
                "showarrow": False,
                "xref": "paper",
                "yref": "paper",
                "x": left + width / 2,
                "xanchor": "center",
                "y": 1,
                "yshift": 18,
            }
        )
    return {"data": data, "layout": layout, "frames": frames}
