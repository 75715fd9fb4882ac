"""Predictions image by image, comparisons of two networks on the same images, and the figures beside top-1."""

import csv
import hashlib
import json
import math
import shutil
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.data.arrays import load_arrays
from zoo.evaluation import compare as comparing
from zoo.evaluation import measure as measuring
from zoo.evaluation.compare import compare, mcnemar, paired_interval, seed_spread
from zoo.evaluation.guesses import Guesses, calibration_error
from zoo.evaluation.predictions import (
    Predictions,
    differences,
    predictions_bytes,
    read_predictions,
    write_predictions,
)
from zoo.evaluation.validate import validate
from zoo.weights.manifest import weights

NAME = "lrunet1_100.zoo_fmnist"
ROOT = Path(__file__).parent.parent
DIGESTS = {"images": "a" * 64, "labels": "b" * 64}


@pytest.fixture(scope="module")
def measured():
    """The embedded weight on 100 images."""
    model = zoo.create_model(NAME, pretrained=True)
    return validate(model, "fashion-mnist", SAMPLE, name=NAME, sha256="0" * 64, device="cpu", limit=100)


def of(scores: list, target: list, name: str = "a") -> Guesses:
    return Guesses.of([(torch.tensor(scores), torch.tensor(target))], DIGESTS, len(target))


def predictions(right: str, name: str = "a", **changes) -> Predictions:
    """Predictions of a word such as ``++-``: which images are right."""
    flags = np.array([letter == "+" for letter in right])
    values = (np.where(flags, 1, 0).astype(np.uint8), np.full(len(right), 0.5, np.float16), flags)
    return replace(Predictions(name, "", "cifar10", "test", "i", "l", len(right), *values), **changes)


# ---- figures ----


def test_figures_of_hand_computed_scores():
    """Two classes; probabilities 3/4, 3/4, 1/2 + and 9/10 of the first guess; the second image is wrong."""
    log = math.log
    found = of([[log(3), 0.0], [log(3), 0.0], [0.0, 1e-6], [0.0, log(9)]], [0, 1, 1, 1])
    assert found.right.tolist() == [True, False, True, True]
    expected = -(log(0.75) + log(0.25) + log(0.5) + log(0.9)) / 4
    assert found.negative_log_likelihood() == pytest.approx(expected, abs=1e-6)
    # bins [11/15, 12/15) with 0.75 twice and one right, [7/15, 8/15) with 0.5, [13/15, 14/15) with 0.9
    assert found.calibration_error() == pytest.approx((2 * 0.25 + 0.5 + 0.1) / 4, abs=1e-6)
    rows = [{"label": 0, "class": "x", "n": 1, "correct": 1, "top1": 100.0}]
    assert found.per_class(["x", "y", "z"]) == [
        *rows,
        {"label": 1, "class": "y", "n": 3, "correct": 2, "top1": 66.6667},
    ], "a class without an image has no accuracy"


def test_calibration_error_is_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.functional.classification.calibration_error")
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(500, 7, generator=generator) * 4
    scores[0] = torch.tensor([1000.0, *[0.0] * 6])  # a probability of exactly 1
    target = torch.randint(7, (500,), generator=generator)
    found = of(scores.tolist(), target.tolist())
    for bins in (1, 10, 15):
        theirs = metrics.multiclass_calibration_error(scores.softmax(1), target, 7, n_bins=bins)
        assert calibration_error(found.probabilities[:, 0], found.right, bins) == pytest.approx(float(theirs), abs=1e-5)
    loss = torch.nn.functional.cross_entropy(scores.double(), target)
    assert found.negative_log_likelihood() == pytest.approx(float(loss), abs=1e-9)


def test_scores_that_are_not_finite_have_no_likelihood():
    found = of([[float("nan"), 0.0], [1.0, 0.0]], [0, 0])
    assert (found.negative_log_likelihood(), found.calibration_error()) == (None, None)


def test_validate_gives_the_figures_of_one_pass(tmp_path, measured, capsys):
    result = asdict(measured)
    assert json.loads(json.dumps(result))["nll"] == measured.nll, "what is said of each image is no figure"
    assert 0 < measured.nll < 1
    assert sum(row["correct"] for row in measured.per_class) == measured.correct
    assert sum(row["n"] for row in measured.per_class) == 100
    file = tmp_path / "r.csv"
    words = ["validate", NAME, "--dataset", "fashion-mnist", "--data", str(SAMPLE), "--device", "cpu", "--limit", "100"]
    kept = tmp_path / "kept.npz"
    assert main([*words, "--results", str(file), "--per-class", "--predictions", str(kept)]) == 0
    out = capsys.readouterr().out
    assert f"{measured.nll:.4f}" in out
    assert "Ankle boot" in out
    row = next(csv.DictReader(file.open()))
    assert (float(row["nll"]), float(row["ece"])) == (measured.nll, measured.ece)
    assert json.loads(row["per_class"]) == measured.per_class
    assert main([*words, "--predictions", str(kept)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main([*words, "--predictions", str(tmp_path / "kept.txt")]) == 1
    assert main([*words[:1], NAME, *words[1:], "--predictions", str(tmp_path / "two.npz")]) == 1
    assert not (tmp_path / "two.npz").exists()


# ---- the file ----


def test_the_file_of_predictions_has_what_was_said_of_each_image(measured, tmp_path):
    kept = write_predictions(measured, tmp_path / "p.npz")
    found = read_predictions(tmp_path / "p.npz")
    content = (tmp_path / "p.npz").read_bytes()
    assert content == predictions_bytes(found) == predictions_bytes(kept)
    assert (found.name, found.sha256, found.dataset, found.split) == (NAME, "0" * 64, "fashion-mnist", "test")
    assert (len(found.prediction), found.of, found.correct) == (100, 1000, measured.correct)
    images, labels = load_arrays("fashion-mnist", SAMPLE, "test")
    assert np.array_equal(found.right, found.prediction == labels[:100])
    model = zoo.create_model(NAME, pretrained=True).eval()
    with torch.inference_mode():
        cfg = model.pretrained_cfg
        likely = model((torch.from_numpy(images[:9]) / 255 - cfg["mean"][0]) / cfg["std"][0]).softmax(1).max(1)
    assert np.array_equal(found.prediction[:9], likely.indices.numpy())
    assert np.allclose(found.score[:9], likely.values.numpy(), atol=1e-3)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as arrays:
        assert {arrays[key].dtype for key in ("prediction", "score", "right")} == {
            np.dtype(t) for t in ("u1", "f2", "?")
        }


def test_many_classes_need_two_bytes(measured):
    guesses = of([[0.0] * 999 + [1.0], [1.0] + [0.0] * 999], [999, 0])
    found = Predictions.of_result(replace(measured, guesses=guesses))
    assert (found.prediction.tolist(), found.prediction.dtype) == ([999, 0], np.uint16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "not a file of predictions"),
        *(
            (lambda path, n=n: path.write_bytes(path.read_bytes()[:n]), "truncated after .* fetch it again")
            for n in (-1, 99, 0)
        ),
        (lambda path: path.write_bytes(b"\0" * 100), "not a file of predictions"),
        (lambda path: np.savez(path, prediction=np.zeros(3)), "no item named 'name.npy'"),
        (lambda path: member(path, "score", np.array([None, 1])), "not a file of predictions"),
        (lambda path: member(path, "score", np.zeros(3, np.float16)), "do not belong together"),
        (lambda path: member(path, "prediction", np.zeros(100, np.int64)), "other types"),
        (lambda path: member(path, "name", np.zeros(3, np.float16)), "do not belong together"),
        (lambda path: member(path, "right", np.zeros((1 << 26) + 1, bool)), "more than 64 MiB"),
        (lambda path: huge(path), "not what its header says"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_other_files_are_refused_in_one_line(measured, tmp_path, change, message):
    path = tmp_path / "p.npz"
    write_predictions(measured, path)
    change(path)
    with pytest.raises(zoo.DataError, match=message) as caught:
        read_predictions(path)
    assert "\n" not in str(caught.value)


def member(path: Path, name: str, value: np.ndarray) -> None:
    """Replace one array of an archive."""
    with np.load(path) as arrays:
        others = dict(arrays)
    np.savez_compressed(path, **{**others, name: value})


def huge(path: Path) -> None:
    """A header that claims more than there is."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["right.npy"] = members["right.npy"].replace(b"(100,)", b"(999,)")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


# ---- verifying it ----


def test_one_flipped_prediction_is_found_and_a_tie_is_none(measured):
    kept = Predictions.of_result(measured)
    assert differences(kept, measured) == (0, 0)
    for key in ("prediction", "right", "score"):
        wrong = getattr(kept, key).copy()
        wrong[7] = {"prediction": 9 - wrong[7], "right": not wrong[7], "score": wrong[7] - np.float16(0.01)}[key]
        assert differences(replace(kept, **{key: wrong}), measured) == (1, 0), key
    # the network now prefers another class by less than a thousandth, or by more
    for gap, expected in ((2e-4, (0, 1)), (1e-2, (1, 0))):
        now = of([[0.0, gap * 4, -9.0]], [0])
        tie = replace(kept, images="a" * 64, labels="b" * 64, of=1, prediction=np.array([0], np.uint8))
        tie = replace(tie, score=np.array([0.5], np.float16), right=np.array([True]))
        assert differences(tie, replace(measured, guesses=now, of=1)) == expected
    with pytest.raises(zoo.DataError, match="another order"):
        differences(replace(kept, labels="c" * 64), measured)


def test_verify_accuracy_looks_at_each_image(measured, monkeypatch, tmp_path):
    """A file of predictions that the manifest vouches for, and that is another network's on one image."""
    file = tmp_path / "predictions.npz"
    known = {"dataset": "fashion-mnist", "split": "test", "correct": measured.correct, "n": measured.n}
    monkeypatch.setattr(measuring, "validate", lambda *args, **options: measured)
    monkeypatch.setattr(measuring, "predictions_here", lambda *_: file)

    def facts(name):
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        return {**weights()[name], "results": [known], "predictions": {"sha256": sha256}}

    monkeypatch.setattr(measuring, "facts", facts)
    kept = replace(Predictions.of_result(measured), sha256=weights()[NAME]["sha256"])
    at = int(np.flatnonzero(~kept.right)[0])  # a wrong guess that becomes another wrong guess: the count is the same
    target, guesses, flipped = measured.guesses.target[at], measured.guesses.classes[at, :2], kept.prediction.copy()
    flipped[at] = next(k for k in range(10) if k not in guesses and k != target)
    cases = {
        "": kept,
        "1 of 100 images are not": replace(kept, prediction=flipped),
        "another": replace(kept, sha256=""),
    }
    for message, content in cases.items():
        file.write_bytes(predictions_bytes(content))
        rows, problems = measuring.measure_again([NAME], {"": SAMPLE})
        assert (
            (rows[0][-1], problems) == ("the manifest's, to the image", []) if not message else message in problems[0]
        )
    file.write_bytes(predictions_bytes(kept))
    for changes, message in (
        ({}, ""),
        ({"nll": measured.nll + 9e-4, "calibration_error": measured.ece - 0.04}, ""),
        ({"nll": measured.nll + 2e-3}, f"nll is {measured.nll:.4f} on fashion-mnist"),
        ({"calibration_error": measured.ece + 0.06}, f"calibration_error is {measured.ece:.4f}"),
    ):
        known |= {"nll": measured.nll, "calibration_error": measured.ece, **changes}
        rows, problems = measuring.measure_again([NAME], {"": SAMPLE})
        assert (rows[0][-1] == "NOT the manifest's", len(problems)) == (bool(message), int(bool(message)))
        assert message in "".join(problems)


def test_the_embedded_weights_predictions_are_the_manifests(tmp_path, monkeypatch, capsys):
    """Beside the weight, in a bundle and where that is installed; a changed byte is found offline."""
    entry = weights()[NAME]["predictions"]
    kept = read_predictions(ROOT / "hub" / NAME / entry["path"])
    (result,) = weights()[NAME]["results"]
    assert (kept.correct, len(kept.prediction), kept.sha256) == (
        result["correct"],
        result["n"],
        weights()[NAME]["sha256"],
    )
    assert main(["bundle", NAME, "-o", str(tmp_path / "b.zoo")]) == 0
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    assert main(["bundle", "--install", str(tmp_path / "b.zoo")]) == 0
    capsys.readouterr()
    assert main(["compare", NAME, NAME, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["both"], row["only_first"], row["difference"]) == (result["correct"], 0, 0)
    shutil.copytree(ROOT / "hub" / NAME, tmp_path / "hub" / NAME)
    file = tmp_path / "hub" / NAME / entry["path"]
    assert main(["verify", NAME]) == 0
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert main(["verify", NAME]) == 1
    assert f"{file}: sha256 is" in capsys.readouterr().err


def test_every_staged_weight_has_its_predictions():
    for name, entry in weights().items():
        if not (ROOT / "hub" / name).is_dir():
            continue
        kept = read_predictions(ROOT / "hub" / name / entry["predictions"]["path"])
        (result,) = entry["results"]
        own = (name, entry["sha256"], result["dataset"], result["correct"], result["n"])
        card = (ROOT / "hub" / name / "README.md").read_text()
        assert f"sha256 `{entry['predictions']['sha256']}`" in card
        if "nll" not in result:
            continue
        # scores are rounded in the file, some into the next bin
        error = 100 * calibration_error(kept.score.astype(np.float32), kept.right)
        assert result["calibration_error"] == pytest.approx(error, abs=0.1)
        # nobody's guess is better than its first one: the likelihood of what is right is a lower end
        assert result["nll"] >= -np.log(kept.score[kept.right].astype(float)).sum() / result["n"] - 1e-3
        assert (kept.name, kept.sha256, kept.dataset, kept.correct, len(kept.prediction)) == own
        assert (
            f"negative log-likelihood {result['nll']:.4f}, calibration error {result['calibration_error']:.2f}" in card
        )


# ---- comparing ----


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((36, 2, 12, 0), (0.0569, 0.3404)),  # Newcombe 1998, table II
        ((1, 1, 7, 12), (0.0256, 0.5069)),  # Fagerland, Lydersen and Laake 2014, table II
        ((10, 0, 0, 0), (-0.2775, 0.2775)),  # the Wilson interval of 10 of 10
        ((0, 0, 5, 0), (0.3855, 1.0)),
    ],
)
def test_paired_intervals_of_the_literature(counts, expected):
    assert paired_interval(*counts) == pytest.approx(expected, abs=6e-5)
    both, only_first, only_second, neither = counts
    mirrored = paired_interval(both, only_second, only_first, neither)
    assert mirrored == pytest.approx((-expected[1], -expected[0]), abs=6e-5)


@pytest.mark.parametrize("counts", [(0, 0), (1, 7), (5, 5), (30, 61), (600, 601), (4000, 4300)])
def test_mcnemars_test_is_the_binomial_test(counts):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(min(counts), sum(counts)).pvalue if sum(counts) else 1.0
    assert mcnemar(*counts) == mcnemar(*counts[::-1]) == pytest.approx(expected, rel=1e-9)


def test_networks_are_compared_image_by_image():
    found = compare(predictions("++++--", "a"), predictions("+++-++", "b"))
    assert (found.both, found.only_first, found.only_second, found.neither) == (3, 1, 2, 0)
    assert found.difference == pytest.approx(100 / 6, abs=1e-4)
    assert found.p_value == 1.0
    assert not found.is_clear
    clear = compare(predictions("-" * 20), predictions("+" * 20))
    assert clear.is_clear
    assert clear.p_value == pytest.approx(2 / 2**20)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (predictions("++", dataset="cifar100"), "the data set is cifar10 of the one, cifar100 of the other"),
        (predictions("++", split="train"), "split is test"),
        (predictions("++", images="j"), "other images"),
        (predictions("+", of=2), "2 images of the one, 1 of the other"),
    ],
)
def test_other_images_do_not_compare(other, message):
    with pytest.raises(zoo.DataError, match=message):
        compare(predictions("++"), other)


def test_seeds_are_paired_too():
    runs = [
        {"runs": [{"seed": s, "top1": t} for s, t in pairs]}
        for pairs in (((0, 90), (1, 91)), ((1, 92), (0, 93), (2, 1)))
    ]
    assert seed_spread(*runs) == {"seeds": [0, 1], "differences": [3, 1], "mean": 2, "std": round(2**0.5, 4)}
    assert seed_spread(runs[0], {}) == {}


def test_compare_measures_what_has_no_file(tmp_path, capsys, measured):
    write_predictions(measured, tmp_path / "p.npz")
    words = ["--data", str(SAMPLE), "--limit", "100", "--device", "cpu"]
    assert main(["compare", str(tmp_path / "p.npz"), NAME, *words]) == 0
    out = capsys.readouterr().out
    assert f"{measured.correct} of 100 images of fashion-mnist right" in out
    assert "another training" in out
    for words, message in (
        ([NAME, str(tmp_path)], "give --data DIR"),
        ([NAME, "lrunet1_100.okankop_fmnist"], "--predictions FILE.npz"),
        ([NAME, NAME, "--limit", "3"], "add --data"),
        ([NAME, str(tmp_path / "p.npz")], "cannot be compared image by image"),
        ([NAME, "lrunet_1"], "No model is called 'lrunet_1'"),
    ):
        assert main(["compare", *words]) == 1
        printed = capsys.readouterr()
        assert message in printed.err
        assert (printed.out, len(printed.err.splitlines())) == ("", 1)


def test_the_manifests_seeds_are_stated(capsys):
    name, twin = "swrn_28_1_2.zoo_c10", "wrn_28_1.zoo_c10"
    assert main(["compare", twin, name]) == 0
    printed = capsys.readouterr().out
    gaps = comparing.seed_spread(*(weights()[n]["seeds"] for n in (twin, name)))
    assert f"the difference is {gaps['mean']:+.3f} ± {gaps['std']:.3f}" in printed


# ---- corruptions ----


def test_corruptions_are_the_same_whatever_else_is_measured():
    pytest.importorskip("imagecorruptions")
    from zoo.evaluation.corruptions import choose_corruptions

    rng = np.random.default_rng(0)
    images = {channels: rng.integers(0, 256, (3, channels, 28, 33), np.uint8) for channels in (1, 3)}
    found, problems = choose_corruptions("gaussian_noise,impulse_noise,snow,fog", (2, 5))
    made = {c.name for c in found}
    assert made | {*problems} == {"gaussian_noise", "impulse_noise", "snow", "fog"}
    assert {"gaussian_noise", "impulse_noise"} <= made
    np.random.seed(7)
    expected, before = np.random.random(), np.random.default_rng
    np.random.seed(7)
    for corruption in found:
        for content in images.values():
            whole = corruption(content)
            assert (whole.shape, whole.dtype) == (content.shape, np.uint8)
            assert np.array_equal(whole[2:], corruption(content[2:], 2)), corruption
            assert not np.array_equal(whole[2:], corruption(content[2:], 0)), "each place has its own seed"
            assert not np.array_equal(whole, replace(corruption, seed=1)(content))
    assert (np.random.random(), np.random.default_rng) == (expected, before), "nobody else's numbers are others"


def test_validate_measures_corrupted_images(tmp_path, capsys):
    pytest.importorskip("imagecorruptions")
    words = ["validate", NAME, "--dataset", "fashion-mnist", "--data", str(SAMPLE), "--device", "cpu", "--limit", "16"]
    rows = []
    for size in ("16", "7"):
        more = ["--corruptions", "impulse_noise", "--severity", "1,5", "--batch-size", size]
        assert main([*words, *more, "--results", str(tmp_path / "r.json")]) == 0
        out = capsys.readouterr().out
        assert "not CIFAR-10-C" in out
        rows.append([(row["top1"], row["corruption"]) for row in json.loads((tmp_path / "r.json").read_text())])
    assert rows[0] == rows[1]
    assert [corruption.get("severity") for _, corruption in rows[0]] == [None, 1, 5]
    for more, message in (
        (["--corruptions", "rain"], "No corruption is called 'rain'"),
        (["--corruptions", "snow", "--severity", "9"], "from 1 to 5"),
        (["--severity", "1"], "add that"),
    ):
        assert main([*words, *more]) == 1
        assert message in capsys.readouterr().err


def test_corruptions_without_their_package_are_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    assert main(["validate", NAME, "--dataset", "fashion-mnist", "--data", str(SAMPLE), "--corruptions"]) == 1
    assert "pip install 'repara-zoo[corruptions]'" in capsys.readouterr().err
