"""Pictures: what stands in them, and that nothing in them collides or is cut."""

import itertools
import sys

import numpy as np
import pytest
from PIL import ImageDraw

import zoo
from conftest import ROOT
from zoo.evaluation.pictures import draw_predictions
from zoo.training import curve

pytest.importorskip("matplotlib")
sys.path.insert(0, str(ROOT / "scripts"))
import pictures
import update_docs
from matplotlib.transforms import Bbox


def drawn(figure):
    """Check a figure: nothing cut, ours with intervals, labels that touch nothing; its labels."""
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 > 0 < box.y0
    assert box.x1 < width
    assert box.y1 < height, "something is cut"
    (axes,) = figure.axes
    assert all(container.has_yerr for container in axes.containers)
    assert 80 < axes.get_ylim()[0] < axes.get_ylim()[1] < 100, "intervals in percent"
    labels = [super(type(text), text).get_window_extent() for text in axes.texts]  # without lines to points
    assert not any(a.overlaps(b) for a, b in itertools.combinations(labels, 2))
    points = [axes.transData.transform(line.get_xydata()) for line in axes.lines if line.get_linestyle() == "None"]
    lines = [Bbox(axes.transData.transform(part)) for bars in axes.collections for part in bars.get_segments()]
    for label in labels:
        assert not any(label.overlaps(Bbox([line.min, line.max])) for line in lines), "a label over a line"
        assert not any(label.contains(*place) for group in points for place in group), "a label over a point"
        assert axes.get_window_extent().contains(label.x0, label.y0)
        assert axes.get_window_extent().contains(label.x1, label.y1)
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("make", [pictures.front_figure, pictures.results_figure])
def test_pictures_of_the_pages(make):
    figure = make()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "ours, measured (95 %)" in words
    assert len({str(line.get_marker()) for line in figure.legends[0].get_lines()}) >= 2
    assert 2 <= len(drawn(figure)) <= 12


def test_labels_find_room_among_many():
    rows = [{"name": f"a_long_name_{k}.x", "top1": 90 + k / 4, "parameters": 10**5 * (k + 1)} for k in range(12)]
    mine = [{**row, "correct": round(100 * row["top1"]), "n": 10_000, "source": ""} for row in rows]
    theirs = [{**row, "top1": row["top1"] - 0.1, "source": "theirs"} for row in rows]
    assert drawn(pictures.figure("many", mine, theirs)) == [f"a_long_name_{k}" for k in range(12)]


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


def test_documents_are_written_all_or_none(monkeypatch):
    written = []
    monkeypatch.setattr(update_docs, "write_atomically", lambda *_: written.append("text"))
    monkeypatch.setattr(update_docs, "save", lambda *_: written.append("picture"))
    monkeypatch.setattr(update_docs, "results_figure", lambda: None)
    update_docs.main()
    assert set(written) == {"text", "picture"}
    written.clear()

    def refuse():
        raise zoo.ZooError("papers lacks a family")

    monkeypatch.setitem(update_docs.TABLES, "chosen", refuse)
    with pytest.raises(zoo.ZooError, match="papers lacks a family"):
        update_docs.main()
    assert not written
