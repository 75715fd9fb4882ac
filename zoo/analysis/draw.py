"""The pictures of an analysis: one function for each subject, from its numbers to a figure of matplotlib's."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..extras import headless_pyplot
from .branches import BINS

Facts = Mapping[str, Any]


def similarity(facts: Facts, name: str) -> Any:
    """The matrix of each bank, and the loops below."""
    banks = facts["layers"]
    figure, panels = _panels(len(banks), 4, 4)
    for panel, bank in zip(panels, banks, strict=True):
        similarity_panel(panel, bank, banks[bank], facts["similarity"][bank])
    title = (
        f"{name}: how alike layers mix the templates of their bank (|cosine| of coefficients)\n{_loops(facts['loops'])}"
    )
    return _titled(figure, title)


def similarity_panel(panel: Any, bank: str, layers: Sequence[str], matrix: Sequence[Sequence[float]]) -> None:
    """One matrix on matplotlib's axes, with its colours."""
    image = panel.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
    size = min(7, 110 / len(layers))
    labels = [short_name(layer) for layer in layers]
    panel.set_xticks(range(len(layers)), labels, rotation=90, fontsize=size)
    panel.set_yticks(range(len(layers)), labels, fontsize=size)
    panel.set_title(f"{_bank(bank)}: |cosine|", fontsize=9)
    panel.figure.colorbar(image, ax=panel, shrink=0.7)


def short_name(layer: str) -> str:
    """``stages.0.2.conv1`` as ``2.conv1``: within its stage."""
    return ".".join(layer.split(".")[-2:])


def _bank(name: str) -> str:
    """A bank that only layers hold goes by the first of them."""
    owner, inside, _ = name.partition(".parametrizations.")
    return f"bank of {owner}" if inside else name


def _loops(loops: Mapping[str, Sequence[Sequence[str]]]) -> str:
    if not loops:
        return "no two neighbouring blocks are alike: no loop at any similarity looked for"
    first, *_ = loops
    names = ", ".join(f"{blocks[0]} to {blocks[-1]}" for blocks in loops[first][:4])
    more = f" and {len(loops[first]) - 4} more" if len(loops[first]) > 4 else ""
    return f"first loops, at similarity {first}: {names}{more}"


def symmetry(facts: Facts, name: str) -> Any:
    """For each kind, which entries of a kernel are one learned value, over channels and taps; and the kernel."""
    rows = facts["patterns"]
    figure, panels = headless_pyplot().subplots(len(rows), 3, figsize=(11, 3.6 * len(rows) + 0.8), squeeze=False)
    for (channels, taps, kernel), row in zip(panels, rows, strict=True):
        channels.imshow(_shuffled(row["channels"]), cmap="turbo", interpolation="nearest")
        channels.set(xlabel="input channel", ylabel="output channel")
        channels.set_title(f"{row['kind']}: one colour, one learned value\n{row['layer']}, first tap", fontsize=9)
        if row["taps"]:
            taps.imshow(row["taps"], cmap="Pastel1", interpolation="nearest")
            for y, line in enumerate(row["taps"]):
                for x, number in enumerate(line):
                    taps.text(x, y, number, ha="center", va="center")
            taps.set_title("taps of one filter\none number, one learned value", fontsize=9)
        taps.set_axis_off()
        limit = max((abs(v) for line in row["kernel"] for v in line), default=0) or 1
        image = kernel.imshow(row["kernel"], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        kernel.set(xlabel="input channel", ylabel="output channel")
        kernel.set_title("the kernel's middle tap, as learned", fontsize=9)
        figure.colorbar(image, ax=kernel, shrink=0.8)
    return _titled(figure, f"{name}: which entries of a kernel repeat one learned value")


def _shuffled(numbers: Sequence[Sequence[int]]) -> list[list[float]]:
    """Neighbouring numbers get colours far apart."""
    return [[number * 0.618034 % 1 for number in row] for row in numbers]


def density(facts: Facts, name: str) -> Any:
    """A bar for each layer."""
    layers = facts["layers"]
    active, entries = (sum(layer[key] for layer in layers) for key in ("active", "entries"))
    title = f"{name}: weights that are on, by layer\n{active:,} of {entries:,} in all ({100 * active / entries:.1f} %)"
    figure, panel = _bars([_bank(f["layer"]) for f in layers], [100 * f["density"] for f in layers])
    panel.set(xlabel="% of the layer's weights", xlim=(0, None))
    panel.axvline(100 * active / entries, color="gray", lw=0.8, ls=":")
    return _titled(figure, title)


def density_in_training(facts: Facts, name: str) -> Any:
    """The density of each layer over the epochs."""
    figure, panel = headless_pyplot().subplots(figsize=(9, max(4, 0.2 * len(facts["density"]) + 1.5)))
    for (layer, values), style in zip(facts["density"].items(), _styles(len(facts["density"])), strict=True):
        panel.plot(facts["epochs"], [100 * v for v in values], marker=".", ms=3, label=layer, **style)
    panel.set(xlabel="epoch", ylabel="% of the layer's weights that are on", ylim=(0, None))
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7)
    return _titled(figure, f"{name}: how weights moved between layers in training")


def branch_norms(facts: Facts, name: str) -> Any:
    """A line for each branch over the layers."""
    layers = facts["layers"]
    branches = list(dict.fromkeys(branch for layer in layers for branch in layer["norms"]))
    figure, panel = headless_pyplot().subplots(figsize=(max(6, 0.3 * len(layers) + 3), 5))
    for branch in branches:
        panel.plot([f["norms"].get(branch, math.nan) for f in layers], marker="o", ms=4, label=branch)
    panel.set_xticks(range(len(layers)), [f["layer"] for f in layers], rotation=90, fontsize=7)
    panel.set(ylabel="Frobenius norm, batch norm folded", ylim=(0, None))
    panel.legend(fontsize=8)
    panel.grid(alpha=0.3)
    return _titled(figure, f"{name}: what each parallel branch weighs")


def gates(facts: Facts, name: str) -> Any:
    """A histogram of each branch's gate for each layer."""
    layers = facts["layers"]
    figure, panels = _panels(len(layers), 3, 2.6)
    for panel, layer in zip(panels, layers, strict=True):
        for branch, counts in layer["counts"].items():
            panel.stairs(counts, [k / BINS for k in range(BINS + 1)], label=branch)
        panel.set_title(layer["layer"], fontsize=8)
        panel.tick_params(labelsize=7)
        panel.set_xlabel("gate", fontsize=7)
        panel.set_ylabel("images", fontsize=7)
    panels[0].legend(fontsize=6)
    return _titled(figure, f"{name}: gates of the branches over {layers[0]['images']:,} images of {facts['dataset']}")


def coefficients(facts: Facts, name: str) -> Any:
    """Singular values of each bank's coefficients."""
    figure, panel = headless_pyplot().subplots(figsize=(9, max(4, 0.2 * len(facts["spectrum"]) + 1.5)))
    for (bank, values), style in zip(facts["spectrum"].items(), _styles(len(facts["spectrum"])), strict=True):
        panel.plot(range(1, len(values) + 1), values, marker="o", ms=4, label=_bank(bank), **style)
    panel.set(xlabel="number", ylabel="singular value", ylim=(0, None))
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7)
    return _titled(figure, f"{name}: how many templates of each bank the layers use\n(singular values of coefficients)")


def singular_values(facts: Facts, name: str) -> Any:
    """Each kernel's spectrum, and how much of its rank carries it."""
    layers = facts["layers"]
    height = max(4, 0.17 * len(layers) + 1.8)
    figure, (left, right) = headless_pyplot().subplots(1, 2, figsize=(12, height), layout=None)
    for layer, style in zip(layers, _styles(len(layers)), strict=True):
        values, top = layer["values"], layer["values"][0] or 1
        across = [100 * (k + 1) / len(values) for k in range(len(values))]
        left.plot(across, [v / top for v in values], lw=1, marker="." if len(values) < 3 else "", **style)
    left.set(xlabel="% of the singular values", ylabel="singular value / the largest", xlim=(0, 101), ylim=(0, 1.02))
    left.set_title("each kernel, from the first layer (dark) to the last (bright)", fontsize=9)
    for key, label, shade in (("rank", "not zero", "0.85"), ("rank_99", "99 %", "C0"), ("rank_90", "90 %", "C1")):
        share = [100 * layer[key] / len(layer["values"]) for layer in layers]
        right.barh(range(len(layers)), share, color=shade, label=label)
    right.set_yticks(range(len(layers)), [layer["layer"] for layer in layers], fontsize=6.5)
    right.invert_yaxis()
    right.set(xlabel="% of the singular values", ylim=(len(layers) - 0.4, -0.6))
    right.set_title("that carry so much of the sum of squares", fontsize=9)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.6 / height), ncols=3, fontsize=8)
    return _titled(figure, f"{name}: singular values of the kernels")


def _panels(count: int, columns: int, side: float) -> tuple[Any, list[Any]]:
    """Axes in rows, as many as are wanted."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure, panels = headless_pyplot().subplots(
        rows, columns, figsize=(max(7, 1.15 * side * columns), side * rows + 0.7), squeeze=False
    )
    for panel in panels.flat[count:]:
        panel.remove()
    return figure, list(panels.flat[:count])


def _bars(labels: Sequence[str], values: Sequence[float]) -> tuple[Any, Any]:
    figure, panel = headless_pyplot().subplots(figsize=(8, 0.2 * len(labels) + 1.8))
    panel.barh(range(len(labels)), values)
    panel.set_yticks(range(len(labels)), labels, fontsize=7)
    panel.set_ylim(len(labels) - 0.4, -0.6)
    return figure, panel


def _styles(count: int) -> list[dict[str, Any]]:
    """Dark for the first layer, bright for the last; broken lines between, so that neighbours differ."""
    colours = headless_pyplot().get_cmap("viridis")
    return [{"color": colours(0.9 * k / max(1, count - 1)), "ls": ("-", "--", ":")[k % 3]} for k in range(count)]


def _titled(figure: Any, title: str) -> Any:
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return figure
