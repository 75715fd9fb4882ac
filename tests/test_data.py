"""Readers: every accepted layout gives the same arrays; damaged and hostile files are refused by name."""

import csv
import gzip
import hashlib
import json
import os
import pickle
import resource
import shutil

import numpy as np
import pytest

import zoo
from zoo import DataError
from zoo.cli import main
from zoo.cli.demo import SAMPLE
from zoo.data import get_dataset, known, load_arrays
from zoo.data.arrays import read_idx
from zoo.data.known import PUBLISHED, digests
from zoo.evaluation.predict import class_names
from zoo.evaluation.validate import validate


def idx(array: np.ndarray) -> bytes:
    return b"\x00\x00\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (7, 28, 28), np.uint8), rng.integers(0, 10, 7).astype(np.uint8)
    return tmp_path, images, labels


def write_idx(folder, images, labels, stem="t10k", zipped=False):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        name, content = f"{stem}-{kind}", idx(array)
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content, 1) if zipped else content)
    return folder


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [("fashion-mnist", ""), ("fashion-mnist", "FashionMNIST/raw"), ("mnist", ""), ("mnist", "MNIST/raw")],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_layouts(fashion, dataset, folder, zipped):
    root, images, labels = fashion
    write_idx(root / folder, images, labels, zipped=zipped)
    x, y = load_arrays(dataset, root, "test")
    assert x.shape == (7, 1, 28, 28)
    assert np.array_equal(x[:, 0], images)
    assert np.array_equal(y, labels)
    assert y.dtype == np.int64
    with pytest.raises(DataError, match="train split"):
        load_arrays(dataset, root, "train")


def test_facts_of_mnist():
    info = get_dataset("mnist")
    assert (info.mean, info.std, info.input_size) == ((0.1307,), (0.3081,), (1, 28, 28))
    assert class_names("mnist") == [str(digit) for digit in range(10)]


def test_an_unknown_set_is_not_silently_fashion_mnist(fashion, caplog):
    root, images, labels = fashion
    write_idx(root, images, labels)
    load_arrays("mnist", root, "test")
    assert "7 images of the test split are not the published MNIST" in caplog.text
    load_arrays("fashion-mnist", root, "test")
    assert "7 images of the test split are not the published Fashion-MNIST" in caplog.text
    full = np.zeros((10_000, 28, 28), np.uint8)  # as many as MNIST's test split has
    write_idx(root, full, np.zeros(10_000, np.uint8))
    load_arrays("mnist", root, "test")
    with pytest.raises(DataError, match=r"size of Fashion-MNIST's but other images .* say mnist"):
        load_arrays("fashion-mnist", root, "test")


def test_fashion_mnist_is_not_taken_for_mnist(tmp_path, caplog, capsys):
    with pytest.raises(DataError, match=r"test split are Fashion-MNIST's, .* --set dataset=fashion-mnist"):
        load_arrays("mnist", SAMPLE, "test")
    images, labels = load_arrays("fashion-mnist", SAMPLE, "test")
    assert not caplog.records, "a part of the published set is known"
    part = write_idx(tmp_path / "part", images[:50, 0], labels[:50].astype(np.uint8), "train")
    with pytest.raises(DataError, match="train split are Fashion-MNIST's"):
        load_arrays("mnist", part, "train")
    command = ["train", "lrunet1_fmnist", "--data", str(part), "--output", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*command, "--set", "dataset=mnist", "--set", "epochs=1"]) == 1
    assert "are Fashion-MNIST's, not MNIST's" in capsys.readouterr().err
    assert main([*command, "--set", "epochs=1"]) == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["dataset"] == "fashion-mnist"
    assert main(["validate", "lrunet1_100.zoo_fmnist", "--dataset", "mnist", "--data", str(SAMPLE)]) == 1
    assert "--dataset fashion-mnist; results then carry that name" in capsys.readouterr().err


def test_without_mnist_the_stand_in_is_named(tmp_path):
    with pytest.raises(DataError, match=r"No mnist train split .*MNIST/raw/.*--set dataset=fashion-mnist"):
        load_arrays("mnist", tmp_path, "train")


def test_the_whole_fashion_mnist_is_known(fashion_mnist, caplog):
    for split in ("train", "test"):
        load_arrays("fashion-mnist", fashion_mnist, split)
        with pytest.raises(DataError, match="are Fashion-MNIST's, not MNIST's"):
            load_arrays("mnist", fashion_mnist, split)
    assert not caplog.records


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x00\x08\x01",
        b"\x00\x00\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",  # asks for 10^28 bytes
        b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00",  # floats
        b"\x00\x00\x08\x01\x00\x00\x00\x05abc",  # too short
        b"\x00\x00\x08\x01\x00\x00\x00\x02abc",  # too long
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_idx_files(tmp_path, content, zipped):
    path = tmp_path / ("x.gz" if zipped else "x")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match=str(path)):
        read_idx(path)


@pytest.mark.parametrize("place", [20, 200, 2000, -6])
def test_a_flipped_bit_in_gzip(tmp_path, place):
    shutil.copytree(SAMPLE, tmp_path / "s")
    path = tmp_path / "s" / "t10k-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[place] ^= 64
    path.write_bytes(content)
    with pytest.raises(DataError, match=path.name):
        load_arrays("fashion-mnist", tmp_path / "s", "test")


def test_truncated_gzip(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "s")
    path = tmp_path / "s" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(DataError, match="Fetch the file again"):
        load_arrays("fashion-mnist", tmp_path / "s", "test")


def cifar_batches(classes: int) -> tuple[dict, dict]:
    rng = np.random.default_rng(1)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if classes == 10 else ["train", "test"]
    pixels = {name: rng.integers(0, 256, (3, 3072), np.uint8) for name in names}
    labels = {name: rng.integers(0, classes, 3).tolist() for name in names}
    return pixels, labels


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("sub", [True, False])
def test_cifar_layouts_agree(tmp_path, classes, sub):
    pixels, labels = cifar_batches(classes)
    binary, python = (
        ("cifar-10-batches-bin", "cifar-10-batches-py") if classes == 10 else ("cifar-100-binary", "cifar-100-python")
    )
    a, b = (tmp_path / "a" / binary, tmp_path / "b" / python) if sub else (tmp_path / "a", tmp_path / "b")
    a.mkdir(parents=True)
    b.mkdir(parents=True)
    for name, data in pixels.items():
        rows = [
            bytes([7] * (classes == 100) + [label]) + row.tobytes()
            for label, row in zip(labels[name], data, strict=True)
        ]
        (a / f"{name}.bin").write_bytes(b"".join(rows))
        content = {b"data": data, b"labels" if classes == 10 else b"fine_labels": labels[name]}
        (b / name).write_bytes(pickle.dumps(content, protocol=2))
    for split in ("train", "test"):
        x, y = load_arrays(f"cifar{classes}", tmp_path / "a", split)
        u, v = load_arrays(f"cifar{classes}", tmp_path / "b", split)
        assert np.array_equal(x, u)
        assert np.array_equal(y, v)
        assert x.shape == ((15 if classes == 10 and split == "train" else 3), 3, 32, 32)
    first = pixels["data_batch_1" if classes == 10 else "train"][0]
    assert np.array_equal(load_arrays(f"cifar{classes}", tmp_path / "a", "train")[0][0].ravel(), first)


def python_batch(folder, images, labels, name="test_batch", key=b"labels"):
    (folder / name).write_bytes(pickle.dumps({b"data": images, key: labels}, protocol=2))


PIXELS = np.zeros((3, 3072), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "hint"),
    [
        (PIXELS / 255, [0, 1, 2], "images are no array of bytes.*float64"),
        (PIXELS.astype(np.float32), [0, 1, 2], "float32"),
        (PIXELS.astype(np.int64), [0, 1, 2], "int64"),
        (PIXELS.astype(np.int8), [0, 1, 2], "int8"),
        (PIXELS[:, :3000], [0, 1, 2], "3000"),
        (PIXELS[0], [0], "3072"),
        (PIXELS.reshape(3, 3, 32, 32), [0, 1, 2], "32"),
        (PIXELS.tolist(), [0, 1, 2], "list"),
        (PIXELS, [0, 1], "labels are not 3 whole numbers"),
        (PIXELS, [0, 1, 2, 3], "labels are not 3"),
        (PIXELS, [0.0, 1.5, 2.0], "float64"),
        (PIXELS, [[0], [1], [2]], "labels are not 3"),
        (PIXELS, ["0", "1", "2"], "labels are not 3"),
        (PIXELS, [True, False, True], "bool"),
        (PIXELS, [0, [1], 2], "not an official cifar10 batch"),
        (PIXELS, [0, 1, 10], r"outside 0\.\.9"),
        (PIXELS, [0, 1, -1], r"outside 0\.\.9"),
        (PIXELS, [0, 1, 2**70], "labels are not 3"),
        (PIXELS, None, "labels are not 3"),
    ],
)
def test_wrong_python_batches(tmp_path, images, labels, hint):
    python_batch(tmp_path, images, labels)
    with pytest.raises(DataError, match=hint) as raised:
        load_arrays("cifar10", tmp_path, "test")
    assert "\n" not in str(raised.value)


def test_batches_that_differ_in_length_are_cut(tmp_path):
    """Together they have as many labels as images, but each image would get another's label."""
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(bytes(3073 * (3 - (number == 4))))
    with pytest.raises(DataError, match=r"data_batch_4\.bin: 2 images, and data_batch_1\.bin has 3"):
        load_arrays("cifar10", tmp_path, "train")


def test_cifar_that_is_not_cifar(tmp_path, capsys, caplog):
    rng = np.random.default_rng(0)
    rng.integers(0, 10, (10_000, 3073), np.uint8).tofile(tmp_path / "test_batch.bin")
    words = ["validate", "sparse_wrn_16_1.zoo_dsr_s90_c10", "--dataset", "cifar10", "--data", str(tmp_path)]
    for ending in ("json", "csv"):
        file = tmp_path / f"r.{ending}"
        (tmp_path / "test_batch.bin").write_bytes((tmp_path / "test_batch.bin").read_bytes()[: 100 * 3073])
        assert main([*words, "--device", "cpu", "--results", str(file)]) == 0
        message = "the 100 images of the test split are not the published CIFAR-10"
        assert message in capsys.readouterr().out
        assert message in caplog.text
        assert message in file.read_text()
    row = json.loads((tmp_path / "r.json").read_text())[0]
    assert set(row["data_sha256"]) == {"images", "labels"}
    assert row["data_sha256"]["images"] in next(csv.DictReader((tmp_path / "r.csv").open()))["data_sha256"]


def test_the_published_content_is_known_by_pixels_and_labels(tmp_path, caplog):
    images, labels = load_arrays("fashion-mnist", SAMPLE, "test")
    shutil.copytree(SAMPLE, tmp_path / "s")
    path = tmp_path / "s" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(labels[::-1].astype(np.uint8))))
    assert not caplog.records
    load_arrays("fashion-mnist", tmp_path / "s", "test")
    assert "are Fashion-MNIST's, but their labels are others" in caplog.text
    result = validate(
        zoo.create_model("lrunet1_100.zoo_fmnist", pretrained=True), "fashion-mnist", SAMPLE, device="cpu"
    )
    assert result.warning == ""
    assert result.data_sha256 == digests(images, labels)
    assert PUBLISHED["fashion-mnist", "test"][result.data_sha256["images"]] == result.data_sha256["labels"]


@pytest.mark.parametrize("dataset", ["mnist", "cifar100"])
def test_official_files_are_known_by_md5(tmp_path, monkeypatch, caplog, dataset):
    """Where the content itself could not be hashed here."""
    if dataset == "mnist":
        write_idx(tmp_path, np.zeros((7, 28, 28), np.uint8), np.zeros(7, np.uint8), zipped=True)
    else:
        python_batch(tmp_path, PIXELS, [1, 2, 99], "test", b"fine_labels")
    load_arrays(dataset, tmp_path, "test")
    assert "are not the published" in caplog.text
    caplog.clear()
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    monkeypatch.setitem(known._FILES, dataset, sums)
    load_arrays(dataset, tmp_path, "test")
    assert not caplog.records
    file = min(tmp_path.iterdir())  # of MNIST the images
    monkeypatch.setitem(known._FILES, dataset, {**sums, file.name: "0" * 32})
    load_arrays(dataset, tmp_path, "test")
    assert "are not the published" in caplog.text


def test_the_whole_cifar10_is_known(cifar10, tmp_path, caplog):
    for split in ("train", "test"):
        load_arrays("cifar10", cifar10, split)
    assert not caplog.records
    file = next(cifar10.glob("**/test_batch.bin"), None)
    if file is not None:
        content = np.fromfile(file, np.uint8).reshape(-1, 3073)
        content[:, 0] = np.roll(content[:, 0], 1)
        content.tofile(tmp_path / "test_batch.bin")
        load_arrays("cifar10", tmp_path, "test")
        assert "are CIFAR-10's, but their labels are others" in caplog.text


def test_another_split_under_its_name(tmp_path, caplog):
    for path in SAMPLE.glob("*.gz"):
        (tmp_path / path.name.replace("t10k", "train")).symlink_to(path)
    load_arrays("fashion-mnist", tmp_path, "train")
    assert "images of the train split are those of the test split" in caplog.text


def test_a_hostile_cifar_pickle_is_not_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'executed'}",))

    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Bomb()}))
    with pytest.raises(DataError, match="system"):
        load_arrays("cifar10", tmp_path, "test")
    assert not (tmp_path / "executed").exists()


def test_a_cifar_file_of_the_wrong_size(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(bytes(3074))
    with pytest.raises(DataError, match="multiple of 3073"):
        load_arrays("cifar10", tmp_path, "test")


def test_labels_outside_the_classes(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(bytes([11]) + bytes(3072))
    with pytest.raises(DataError, match=r"outside 0\.\.9"):
        load_arrays("cifar10", tmp_path, "test")


def test_the_bundled_sample_is_what_its_readme_says():
    text = (SAMPLE / "README.md").read_text()
    for path in SAMPLE.glob("*.gz"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in text
        assert hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest() in text
    images, labels = load_arrays("fashion-mnist", SAMPLE, "test")
    assert images.shape == (1000, 1, 28, 28)
    assert len(set(labels.tolist())) == 10


def test_the_bundled_sample_is_the_start_of_the_test_set(fashion_mnist):
    images, labels = load_arrays("fashion-mnist", fashion_mnist, "test")
    assert hashlib.sha256(images[:, 0].tobytes()).hexdigest().startswith("c867c93ff95360594e8ec3287995350b")
    sample, sample_labels = load_arrays("fashion-mnist", SAMPLE, "test")
    assert np.array_equal(images[:1000], sample)
    assert np.array_equal(labels[:1000], sample_labels)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x80\x02]r\xff\xff\xff\xff.",  # a place in the memo, for which C's unpickler takes 32 GB
        b"\x80\x02cnumpy\nndarray\n(\x8a\x05\x00\x00\x00\x00\x10tR.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(\x8a\x05\x00\x00\x00\x00\x10tU\x01btR.",
    ],
    ids=["memo", "array", "reconstructed"],
)
def test_a_python_batch_takes_no_more_memory_than_it_has(tmp_path, bomb):
    (tmp_path / "test_batch").write_bytes(bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(zoo.DataError, match="not an official"):
        load_arrays("cifar10", tmp_path, "test")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18, "KiB"
