"""Pictures: what stands in them, and that nothing in them collides or is cut."""

import itertools
import json
import sys

import numpy as np
import pytest
from PIL import ImageDraw

import zoo
from conftest import ROOT
from zoo.evaluation.pictures import draw_predictions
from zoo.training import curve
from zoo.weights.manifest import weights

pytest.importorskip("matplotlib")
sys.path.insert(0, str(ROOT / "scripts"))
import plots
import results_page
import sharing_found
import short_runs
import small_comparisons
import small_comparisons_page
import sparse_order
import update_docs


def drawn(figure):
    """Check a figure: nothing cut, points with intervals, axes that the data fill; its legends' words, its points."""
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 > 0 < box.y0
    assert box.x1 < width
    assert box.y1 < height, "something is cut"
    points = []
    for axes in (axes for axes in figure.axes if axes.containers):
        for container in axes.containers:
            assert container.has_xerr or container.has_yerr
            points += container.lines[0].get_xydata().tolist()
        for side in ("x", "y"):
            shared = getattr(axes, f"get_shared_{side}_axes")().get_siblings(axes)
            limits = [
                getattr(box.transformed(axes.transScale), f"interval{side}")
                for box in (axes.viewLim, *(a.dataLim for a in shared))
            ]
            (low, high), first, last = sorted(limits[0]), min(x for x, _ in limits[1:]), max(x for _, x in limits[1:])
            assert low < first <= last < high
            assert last - first > 0.5 * (high - low), "the axis is longer than the data"
        labels = [super(type(text), text).get_window_extent() for text in axes.texts]  # without lines to points
        assert not any(a.overlaps(b) for a, b in itertools.combinations(labels, 2))
    legends = figure.legends + [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    return [text.get_text() for legend in legends for text in legend.get_texts()], points


def test_results_of_whatever_families_there_are():
    known = dict(weights())
    for k in range(7):  # where there is room, of families that no script names
        result = {"top1": 85 - k / 2, "correct": 8500 - 50 * k, "n": 10_000}
        entry = {"family": f"new {k}", "dataset": "cifar10", "origin": "zoo", "results": [result]}
        known[f"new_{k}.zoo_c10"] = {**entry, "params": {"nonzero": 500_000 + 100_000 * k}}
    figure = results_page.results_figure(known)
    words, points = drawn(figure)
    measured = {name: entry for name, entry in known.items() if entry["results"]}
    assert len(points) == len(measured) == sum(len(axes.texts) for axes in figure.axes)
    assert {entry["family"] for entry in measured.values()} <= set(words)
    assert {"filled: trained by this project", "hollow: the authors' own weights", "95 % interval"} <= set(words)
    looks = {(line.get_color(), line.get_marker()) for line in figure.legends[0].get_lines()}
    assert len(looks) == len(words) - 1, "filled and hollow look alike but for the filling"


def test_a_picture_without_room_for_its_labels_is_made_larger():
    figure, panel = plots.headless_pyplot().subplots(figsize=(2, 2))
    plots.points(panel, [1, 2, 2, 2, 3], [800, 849, 850, 851, 900], 1000)
    plots.label_points({panel: [(x, y, f"a long label {y}") for x, y in panel.containers[0].lines[0].get_xydata()]})
    assert figure.get_size_inches()[0] > 2
    drawn(figure)


def test_a_manifest_without_measured_weights_has_pictures_too():
    assert drawn(results_page.results_figure({}))[1] == drawn(results_page.symmetry_figure({}))[1] == []


PAGES = {
    "symmetry": (results_page, lambda target: plots.save(results_page.symmetry_figure(weights()), target), 9),
    "short runs": (sparse_order, lambda target: sparse_order.section(short_runs.rows(), target.parent), 30),
    "comparisons": (
        small_comparisons_page,
        lambda target: small_comparisons_page.write_page(small_comparisons.results(), target.parent),
        13,
    ),
    "sharing": (
        sharing_found,
        lambda target: sharing_found.draw(json.loads((ROOT / "docs" / "sharing.json").read_text()), target),
        11,
    ),
}


@pytest.mark.parametrize("page", PAGES)
def test_pictures_of_the_pages(page, tmp_path, monkeypatch):
    module, make, count = PAGES[page]
    saved = []
    for where in (module, plots):
        monkeypatch.setattr(where, "save", lambda figure, _: saved.append(figure), raising=False)
    make(tmp_path / "x.png")
    (figure,) = saved
    words, points = drawn(figure)
    assert len(points) == count
    assert any("95 %" in text for text in [*words, *(axes.get_ylabel() for axes in figure.axes)])


@pytest.mark.parametrize("count", [1, 10, 100])
@pytest.mark.parametrize("shape", [(28, 28), (32, 32, 3)])
def test_predictions_have_a_title_and_labels_that_are_not_cut(count, shape, monkeypatch):
    texts, write = [], ImageDraw.ImageDraw.text

    def noted(self, at, text, fill, font):
        texts.append((text, fill, self.textbbox(at, text, font=font)))
        write(self, at, text, fill, font)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    long = "snow leopard, ounce, Panthera uncia: a name as long as ImageNet's"
    captions = [("Coat", long if i % 2 else "Coat", 0.876) for i in range(count)]
    images = [np.full(shape, 200, np.uint8)] * count
    sheet = draw_predictions(images, captions, scale=2, title="lrunet1_100.x on fashion-mnist")
    title, *others = texts
    assert title[0] == f"lrunet1_100.x on fashion-mnist, {-(-count // 2)} right and {count // 2} wrong shown"
    assert [text for text, _, _ in others] == [t for _, g, _ in captions for t in (f"guess: {g}, 88 %", "label: Coat")]
    assert [fill for text, fill, _ in others[::2]] == ["red" if i % 2 else "green" for i in range(count)]
    boxes = [box for _, _, box in texts]
    assert all(min(x0, y0) >= 0 and x1 <= sheet.width and y1 <= sheet.height for x0, y0, x1, y1 in boxes)
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    pixels = np.asarray(sheet)
    assert (pixels == 200).all(2).sum() >= count * 4 * shape[0] * shape[1], "each image is there, whole"


def test_training_curves_show_accuracy_where_there_is_one(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(curve.headless_pyplot(), "close", figures.append)
    log = [{"loss": 2.0, "lr": 0.1}, {"loss": 1.0, "lr": 0.05, "held_out_top1": 61.5}, {"loss": 0.5, "lr": 0.0}]
    curve.plot_loss(log, tmp_path / "x.png", "a run")
    curve.plot_loss([{"loss": 2.0, "lr": 0.1}], tmp_path / "x.png", "a weight", 61.5)
    with_accuracy, without = figures
    (line,) = with_accuracy.axes[1].get_lines()
    assert line.get_ydata()[1] == 61.5
    assert np.isnan(line.get_ydata()[[0, 2]]).all()
    assert [text.get_text() for text in with_accuracy.legends[0].get_texts()][1] == "held-out top-1"
    assert (with_accuracy.axes[0].get_title(), with_accuracy.axes[1].get_xlabel()) == ("a run", "epoch")
    assert without.axes[0].get_title() == "a weight: 61.50 % top-1 on the test set"
    assert len(without.axes) == 2, "loss and learning rate"


def test_the_table_says_what_a_network_is_collapsed_and_the_best_stands_first():
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in update_docs.readme_section().splitlines()[2:]]
    (row,) = [row for row in rows if row[0] == "`sparse_wrn_16_2.zoo_dsr_s90_c10`"]
    assert row[2].startswith("90.10")
    assert row[3] == "82,029"
    assert row[4].startswith("691,")
    assert row[5].startswith("2.8 MB (1.4 in float16)")
    order = [(row[1], -float(row[2].split()[0])) for row in rows]
    assert order == sorted(order)


def test_documents_are_written_all_or_none(monkeypatch):
    written = []
    monkeypatch.setattr(update_docs, "write_atomically", lambda *_: written.append("text"))
    monkeypatch.setattr(update_docs, "save", lambda *_: written.append("picture"))
    monkeypatch.setattr(update_docs, "results_figure", lambda _: None)
    monkeypatch.setattr(update_docs, "symmetry_figure", lambda _: None)
    update_docs.main()
    assert set(written) == {"text", "picture"}
    written.clear()
    name, entry = next(iter(weights().items()))
    monkeypatch.setattr(update_docs, "weights", lambda: {**weights(), name: {**entry, "family": "unheard of"}})
    with pytest.raises(zoo.ZooError, match="papers lacks the family unheard of"):
        update_docs.main()
    assert not written


def test_nobody_is_sent_to_twins_that_are_not_there():
    entry = {"remark": "Too small.", "paper_result": None, "twins": ["a.b", "c.d"]}
    assert results_page._why(entry, {}) == "Too small."
    assert results_page._why(entry, {"a.b": {}}) == "Too small; compare with the twin."
    assert results_page._why(entry, {"a.b": {}, "c.d": {}}) == "Too small; compare with the twins."
    assert "twins." not in next(
        line for line in results_page.results_page(weights()).splitlines() if "sparse_wrn_16_2.zoo_dsr" in line
    )
