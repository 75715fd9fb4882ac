"""The gallery's site: figures that are those of manifest and measured files, links that lead somewhere, refusals."""

import base64
import csv
import gzip
import hashlib
import json
import re
import sys
from fractions import Fraction
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch

import zoo
from conftest import ROOT
from zoo.cli import main
from zoo.evaluation.compare import COLUMNS, compare, comparison_text, known_seeds
from zoo.evaluation.predictions import read_predictions
from zoo.gallery import build
from zoo.gallery import measured as measured_files
from zoo.gallery.build import FACTS
from zoo.gallery.facts import all_facts
from zoo.gallery.layers import layer_facts
from zoo.gallery.sets import LABELS, SAMPLE, UNKNOWN
from zoo.weights.manifest import weights

OURS = ("wrn_16_1.zoo_c10", "symm_wrn_16_1.zoo_c10", "sparse_wrn_16_1.zoo_dsr_s90_c10")
CHOSEN = (*OURS, "lrunet1_100.zoo_fmnist", "lru_mobilenet_025.okankop_c10")
NAMES = [*weights()]
DOCS = ROOT / "docs"


class Page(HTMLParser):
    """What a page links to and loads, its ids, and its text."""

    def __init__(self, file):
        super().__init__()
        self.links, self.loads, self.ids, self.inline, self.handlers, self.words = [], [], [], [], [], []
        self.open = []
        self.html = file.read_text(encoding="utf-8")
        self.feed(self.html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.open.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.handlers += [name for name in found if name.startswith("on")]
        if tag == "a":
            self.links.append((found["href"], found.get("rel", "")))
        self.loads += [found[key] for key in ("src", "srcset", "poster", "data") if key in found]
        self.loads += [found["href"]] if tag in ("link", "use", "image") else []
        self.loads += re.findall(r"url\('?([^')]*)", found.get("style", ""))
        if tag == "script" and "src" not in found:
            self.inline.append(tag)

    def handle_data(self, data):
        self.words.append(data)


def value_of(file):
    """What a script of data puts under its key."""
    key, value = re.fullmatch(r"\(window\.ZOO=window\.ZOO\|\|\{\}\)\[(.*?)\]=(.*);\n", file.read_text()).groups()
    assert file.as_posix().endswith(f"/data/{json.loads(key)}.js")
    return json.loads(value)


def numbers(packed):
    return np.frombuffer(base64.b64decode(packed), "<u2")


@pytest.fixture(scope="module", autouse=True)
def neither_networks_nor_moving_pictures():
    """They take seconds to make; tests/test_gallery_browser.py is about them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.gallery.try_page.is_file", lambda path: False)
        patch.setattr("zoo.gallery.pages.animation", lambda family: None)
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery") / "site"
    facts = build(folder, CHOSEN)
    assert facts["weights"] == sorted(CHOSEN)
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


@pytest.fixture(scope="module")
def records():
    return {record["name"]: record for record in all_facts(NAMES)}


@pytest.mark.parametrize("name", NAMES)
def test_a_records_figures_are_the_manifests_and_those_measured(records, name):
    record, entry = records[name], weights()[name]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["params"], record["bytes"]["stored"]) == (entry["params"], entry["size"])
    assert record["bytes"]["collapsed"] == (entry.get("collapsed") or {}).get("size")
    assert record["bytes"]["packed"] == (entry.get("packed") or {}).get("size")
    result = entry["results"][0] if entry["results"] else None
    assert record["accuracy"] == result
    if result and entry["paper_result"]:
        gap = Fraction(str(result["top1"])) - Fraction(str(entry["paper_result"]["top1"]))
        assert record["against_paper"] == float(gap)
    else:
        assert record["against_paper"] is None
    assert record["calibration_error"] == (result or {}).get("calibration_error")
    assert (record["licence"], record["sha256"]) == (entry["licence"], entry["sha256"])
    bench = {row["name"]: row for row in json.loads((DOCS / "benchmarks.json").read_text())["weights"]}.get(name)
    if bench:
        assert record["macs"] == {"stored": bench["macs"]["stored"], "inference": bench["macs"]["collapsed"]}
        over = {str(times["batch"]): times["over resnet18"] for times in bench["times"]}
        for engine, run in (("PyTorch", "collapsed"), ("OpenVINO", "collapsed, openvino")):
            assert record["latency"][engine] == {batch: found[run] for batch, found in over.items()}
    else:
        assert record["latency"] is None
    int8 = json.loads((DOCS / "deploy.json").read_text())["int8"].get(name, {})
    assert len(record["int8"]) == len(int8)
    assert [row["difference"] for row in record["int8"].values()] == [row["difference"] for row in int8.values()]
    with open(DOCS / "corruptions.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["name"].split()[0] == name]
    corrupted = [float(row["top1"]) for row in rows if row["corruption"] != "{}"]
    if corrupted:
        assert record["corruptions"]["mean"] == pytest.approx(np.mean(corrupted), abs=0.0051)
        assert [found["top1"] for found in record["corruptions"]["by"]] == corrupted
    else:
        assert record["corruptions"] is None


def test_what_was_measured_of_other_bytes_under_the_name_does_not_count(entries):
    name = "lrunet1_100.zoo_fmnist"
    (before,) = all_facts([name])
    assert before["latency"] and before["int8"] and before["corruptions"]
    entries[name]["size"] += 1
    entries[name]["results"][0]["correct"] -= 1
    entries[name]["sha256"] = entries[name]["collapsed"]["sha256"] = "0" * 64
    (after,) = all_facts([name])
    assert (after["latency"], after["int8"], after["corruptions"]) == (None, {}, None)


@pytest.mark.parametrize("name", CHOSEN)
def test_pages_show_the_figures(pages, records, name):
    page, record = pages[f"weights/{name}.html"], records[name]
    top1 = f"{record['accuracy']['top1']:.2f}"
    for words in (f"{top1} %", f"{record['params']['nonzero']:,}", record["licence"], record["sha256"]):
        assert words in page.text
    assert f'timm.create_model("{name}", pretrained=True)' in page.text
    assert all(
        word in page.text for word in ("torch.hub.load", "AutoModelForImageClassification", f"zoo predict {name}")
    )
    row = re.search(rf'<tr data-name="{re.escape(name)}".*?</tr>', pages["index.html"].html, re.DOTALL)
    cells = re.findall(r'data-order="([^"]*)"', row[0])
    assert cells[0] == str(record["accuracy"]["top1"])
    params = record["params"]
    assert cells[4:7] == [str(params[key]) for key in ("stored", "nonzero", "inference")]
    figures = [*(record["bytes"][key] for key in ("stored", "packed", "collapsed")), record["macs"]["stored"]]
    figures += [
        (record["latency"] or {}).get(e, {}).get("1", [None])[0] for e in ("PyTorch", "ONNX Runtime", "OpenVINO")
    ]
    figures += [record["calibration_error"], (record["corruptions"] or {}).get("mean")]
    assert cells[7:] == ["" if value is None else str(value) for value in figures]


def test_a_page_without_logs_and_predictions_says_so_and_how_to_get_them(pages, site):
    name = "lru_mobilenet_025.okankop_c10"
    text = pages[f"weights/{name}.html"].text
    assert "no log of its training on this machine" in text and "no record of its collapse on this machine" in text
    assert f"zoo validate {name} --dataset cifar10 --data DIR --predictions {name}.npz" in text
    assert name in pages["compare.html"].text and not (site / "data" / "predictions" / f"{name}.js").exists()


def test_every_file_is_listed_and_those_of_others_are_as_they_were_with_their_licences(site):
    facts = json.loads((site / FACTS).read_text())
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert files == {*facts["files"], FACTS}
    versions = json.loads((site / "vendor" / "versions.json").read_text())
    written = {file: digest for package in versions.values() for file, digest in package["files"].items()}
    assert {path.name for path in (site / "vendor").iterdir()} == {*written, "versions.json"}
    for file, digest in written.items():
        assert hashlib.sha256((site / "vendor" / file).read_bytes()).hexdigest() == digest
    for package in versions.values():
        assert package["licence"] and re.fullmatch(r"sha512-[\w+/]{86}==", package["integrity"])
        assert any("LICENSE" in file.upper() or "NOTICES" in file.upper() for file in package["files"])


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(pages, site):
    assert {"index.html", "compare.html", "families/index.html", "families/sparse.html"} <= {*pages}
    ids = {name: {*page.ids} for name, page in pages.items()}
    for name, page in pages.items():
        assert not page.inline and not page.handlers, name
        assert len(page.ids) == len(ids[name]), f"{name} has an id twice"
        for target in page.loads:
            if target.startswith(("#", "data:")):
                continue
            parts = urlsplit(target)
            assert not parts.scheme and not parts.netloc and not parts.path.startswith("/"), (name, target)
            assert (site / name).parent.joinpath(unquote(parts.path)).resolve().is_file(), (name, target)
        for target, rel in page.links:
            parts = urlsplit(target)
            if parts.scheme:
                assert parts.scheme in ("http", "https") and "noopener" in rel, (name, target)
                continue
            place = (site / name).parent.joinpath(unquote(parts.path)).resolve() if parts.path else site / name
            assert place.is_file() and place.is_relative_to(site.resolve()), (name, target)
            known = ids[place.relative_to(site.resolve()).as_posix()]
            assert not parts.fragment or "=" in parts.fragment or parts.fragment in known, (name, target)
    found = value_of(site / "data" / "search.js")
    assert {row[0] for row in found} >= {*CHOSEN, "lrunet10_100", "LruNet"}
    for *_, target in found:
        path, _, fragment = target.partition("#")
        assert not fragment or fragment in ids[path], target
        assert path in pages


@pytest.mark.parametrize("script", sorted((ROOT / "zoo" / "gallery" / "static").glob("*.js")), ids=lambda p: p.name)
def test_own_scripts_are_classical_and_fetch_nothing(script):
    text = script.read_text()
    assert not re.search(
        r"^\s*(import|export)\b|\bfetch\(|XMLHttpRequest|https?://|innerHTML|\beval\(", text, re.MULTILINE
    )


def test_comparisons_are_those_of_zoo_compare(site):
    found = value_of(site / "data" / "sets" / "cifar10-test.js")
    kept = {name: read_predictions(ROOT / "hub" / name / "predictions.npz") for name in OURS}
    assert {*found["pairs"]} == {*OURS}
    for first, p in kept.items():
        others = [compare(p, q, known_seeds(p, q)) for name, q in kept.items() if name != first]
        for expected in others:
            told = found["pairs"][first][expected.second]
            said = told.pop("said")
            assert told == json.loads(json.dumps(expected.to_dict()))
            line = next(x for x in comparison_text(others).splitlines() if x.startswith(f"{expected.second} "))
            cells = re.split(r"\s{2,}", line)
            words = dict(zip(COLUMNS, cells, strict=True))
            shown = {"top-1 %": "top1", "difference": "difference", "paired 95 %": "interval", "McNemar p": "p"}
            assert {key: said[own] for key, own in shown.items()} == {key: words[key] for key in shown}
            assert said["clear"] == expected.is_clear and bool(said["seeds"]) == bool(expected.seeds)


def test_what_scripts_count_from_is_what_the_predictions_say(site):
    found = value_of(site / "data" / "sets" / "cifar10-test.js")
    labels = np.array(found["labels"])
    for name in OURS:
        p, said = (
            read_predictions(ROOT / "hub" / name / "predictions.npz"),
            value_of(site / "data" / "predictions" / f"{name}.js"),
        )
        assert np.array_equal(numbers(said["prediction"]), p.prediction)
        assert np.abs(numbers(said["score"]) / 1000 - p.score.astype(float)).max() < 0.0011
        assert np.array_equal(labels == numbers(said["prediction"]), p.right)
        matrix = np.array(value_of(site / "data" / "weights" / f"{name}.js")["confusion"])
        assert np.trace(matrix) == p.correct and matrix.sum() == (labels != UNKNOWN).sum()
    assert 0 < (labels == UNKNOWN).sum() < 2000


def test_the_bundled_images_are_shown_where_their_weight_is_wrong(site):
    name = "lrunet1_100.zoo_fmnist"
    found = value_of(site / "data" / "sets" / "fashion-mnist-test.js")
    p = read_predictions(ROOT / "hub" / name / "predictions.npz")
    images, labels = zoo.data.arrays.load_arrays("fashion-mnist", SAMPLE, "test")
    places = numbers(found["sheets"]["places"])
    assert places.tolist() == np.flatnonzero(~p.right[:1000]).tolist()
    assert found["labels"][:1000] == labels.tolist() and UNKNOWN not in found["labels"]
    from PIL import Image

    sheet = np.array(Image.open(site / found["sheets"]["folder"] / "0.png"))
    k, (w, h) = 23, (found["sheets"]["width"], found["sheets"]["height"])
    row, column = divmod(k, found["sheets"]["columns"])
    assert np.array_equal(sheet[row * h : (row + 1) * h, column * w : (column + 1) * w], images[places[k], 0])


def test_labels_that_ship_are_those_their_name_says():
    assert LABELS
    for name, path in LABELS.items():
        assert hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest() == name


def test_a_data_set_tells_all_classes(fashion_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.gallery.sets.LABELS", {})
    build(tmp_path / "site", ["lrunet1*.zoo_fmnist"], data={"fashion-mnist": fashion_mnist})
    found = value_of(tmp_path / "site" / "data" / "sets" / "fashion-mnist-test.js")
    assert UNKNOWN not in found["labels"] and len(found["pairs"]) == 2
    drawn = value_of(tmp_path / "site" / "data" / "weights" / "lrunet1_100.zoo_fmnist.js")
    assert np.array(drawn["confusion"]).sum() == 10_000


LAYERED = [
    "swrn_28_1_2.zoo_c10",
    "symm_wrn_16_1.zoo_quar_c10",
    "sparse_wrn_16_1.zoo_dsr_s90_c10",
    "pd_a_resnet18_half_cifar.zoo_e6_c10",
    "lrunet10_100.okankop_fmnist",
    "lru_shufflenet_g3_050.okankop_fmnist",
]


@pytest.mark.parametrize("name", LAYERED)
def test_layers_and_batch_norms_learn_all_there_is(name):
    with torch.device("meta"):
        model = zoo.create_model(name)
    norms = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d) and ".branches." not in n]
    layers = layer_facts(name, here=name == OURS[2])
    learned = sum(layer["learned"] for layer in layers)
    assert learned + sum(p.numel() for _, m in norms for p in m.parameters()) == weights()[name]["params"]["stored"]
    runs = {layer["layer"]: layer["runs"] for layer in layers}
    if name.startswith("lrunet10"):
        assert runs["stages.1.block.dw"] == 10 and runs["stem.conv"] == 1
    if name == OURS[2]:
        masked = [layer for layer in layers if layer["kind"] == "masked"]
        tensors = zoo.density_report(zoo.create_model(name, pretrained=True)).tensors
        assert masked and [layer["on"] for layer in masked] == [t.active for t in tensors if t.kind != "fixed"]


HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"


def test_hostile_text_stays_text(entries, tmp_path, monkeypatch):
    name = "wrn_16_1.zoo_c10"
    entry = entries[name]
    entry |= dict.fromkeys(("description", "licence_source", "remark", "recipe", "origin"), HOSTILE)
    entry |= {
        "licence": HOSTILE,
        "origin_url": "javascript:alert(1)",
        "paper_result": {"dataset": "cifar10", "top1": 1.0, "note": HOSTILE},
    }
    entry["sources"].append({"kind": "release", "url": "javascript:alert(2)", "sha256": "0" * 64, "metadata": {}})
    entry["results"][0]["versions"] = {"torch": HOSTILE}
    monkeypatch.setattr("zoo.gallery.beside.read_file", lambda path, largest: _with(path))
    build(tmp_path / "site", [name])
    page = Page(tmp_path / "site" / "weights" / f"{name}.html")
    assert HOSTILE in page.text and not page.handlers and not page.inline
    for path in (tmp_path / "site").rglob("*.*"):
        if path.suffix in (".html", ".js") and path.parent.name not in ("vendor", "static"):
            text = path.read_text()
            assert "</script><img" not in text and "<img" not in text, path
    assert not any(target.startswith("javascript") for target, _ in page.links)


def _with(path):
    """A file beside a weight as somebody else might have written it."""
    content = path.read_bytes()
    if path.name == "equivalence.json":
        record = json.loads(content)
        record["differences"][0]["input"] = HOSTILE
        return json.dumps(record).encode()
    return content


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("training_log.jsonl", '{"epoch": 1}', "lacks 'loss'"),
        ("training_log.jsonl", '{"epoch": "<b>", "loss": 1, "lr": 1}', "epoch cannot be"),
        ("equivalence.json", "{}", "lacks 'correct'"),
        ("equivalence.json", "[" * 100_000, "cannot be read"),
        ("seeds_log.jsonl", "nothing", "cannot be read"),
    ],
)
def test_a_damaged_file_beside_a_weight_is_one_line(file, content, message, tmp_path, monkeypatch):
    name = "sparse_wrn_16_1.zoo_dsr_s90_c10"
    (tmp_path / file).write_text(content)
    monkeypatch.setattr("zoo.gallery.beside.folder_of", lambda name: tmp_path)
    from zoo.gallery.beside import stories

    with pytest.raises(zoo.ZooError, match=message) as error:
        stories(name)
    assert file in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("what", ["file", "other", "added", "another command's"])
def test_a_folder_that_is_not_a_gallery_is_left_alone(what, tmp_path, monkeypatch):
    folder = tmp_path / "site"
    if what == "file":
        folder.write_text("mine")
    else:
        folder.mkdir()
        facts = {"producer": "repara-zoo gallery" if what == "added" else "zoo analyze", "files": ["index.html"]}
        if what != "other":
            (folder / FACTS).write_text(json.dumps(facts))
            (folder / "index.html").write_text("")
        if what != "another command's":
            (folder / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(zoo.ZooError, match="give another name"):
        build(folder, ["lrunet1_100"])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_of_ones_own_inside_the_gallery_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.gallery.pages.write_pages", lambda part, *_: _tiny(part))
    build(tmp_path / "site", ["lrunet1_100"])
    build(tmp_path / "site", ["lrunet1_100"])
    (tmp_path / "site" / "weights" / "notes.txt").write_text("mine")
    with pytest.raises(zoo.ZooError, match=r"weights/notes.txt.*give another name"):
        build(tmp_path / "site", ["lrunet1_100"])


def _tiny(part):
    (part / "weights").mkdir()
    (part / "weights" / "a.html").write_text("")


def test_a_failure_leaves_the_old_site_and_nothing_half_written(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.gallery.pages.write_pages", lambda part, *_: _tiny(part))
    build(tmp_path / "site", ["lrunet1_100"])
    before = sorted(tmp_path.rglob("*"))

    def full(part, *_):
        _tiny(part)
        raise OSError(28, "No space left on device", str(part / "x"))

    monkeypatch.setattr("zoo.gallery.pages.write_pages", full)
    with pytest.raises(zoo.ZooError, match="No space left"):
        build(tmp_path / "site", ["lrunet1_100"])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing*"], "No weight matches 'nothing"),
        (["--data", "/tmp"], "write NAME=DIR"),
        (["--data", "cifar11=/tmp"], "no data set is called 'cifar11'"),
        (["--data", "cifar10=/tmp", "--data", "cifar10=/etc"], "names cifar10 twice"),
        (["lrunet1_100", "--data", "mnist=/tmp"], "no weight here has predictions of mnist"),
        (
            ["lrunet1_100", "--data", f"fashion-mnist={SAMPLE}"],
            "are not those that lrunet1_100.zoo_fmnist was measured",
        ),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, capsys):
    assert main(["gallery", "-o", str(tmp_path / "site"), *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not any(tmp_path.iterdir())


def test_away_from_the_checkout(tmp_path, monkeypatch, capsys):
    """As in an installed package: measured figures lie in it, and of most weights there is only the manifest."""
    import tomllib

    with open(ROOT / "pyproject.toml", "rb") as file:
        included = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    sources = [path.read_text() for path in (ROOT / "zoo" / "gallery").glob("*.py")]
    used = {name for text in sources for name in re.findall(r'read_measured\("([^"]+)"\)', text)}
    assert len(used) == 4
    package = tmp_path / "zoo"
    for name in used:
        target = tmp_path / included[f"docs/{name}"]
        assert target == package / "measured" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((DOCS / name).read_bytes())
    monkeypatch.setattr(measured_files, "PACKAGE", package)
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    assert main(["gallery", "-o", str(tmp_path / "site"), "wrn_16_1", "sparse_wrn_16_1.zoo_dsr_s90_c10"]) == 0
    assert f"{tmp_path}/site/index.html  2 weights" in capsys.readouterr().out
    page = Page(tmp_path / "site" / "weights" / "wrn_16_1.zoo_c10.html")
    assert "86.30 %" in page.text and "no file of its predictions" in page.text and "ONNX Runtime" in page.text
    assert "zoo validate NAME" in Page(tmp_path / "site" / "compare.html").text


def test_the_plot_draws_the_records_and_what_other_zoos_publish(site, records):
    drawn = value_of(site / "data" / "plot.js")
    for weight in drawn["weights"]:
        record, values = records[weight["name"]], weight["values"]
        assert values["nonzero"] == record["params"]["nonzero"] and values["top1"] == record["accuracy"]["top1"]
        assert values["packed"] == (record["bytes"]["packed"] or record["bytes"]["stored"])
        assert values["onnx"] == ((record["latency"] or {}).get("ONNX Runtime") or {"1": [None]})["1"][0]
        assert {*values} == {axis["key"] for axis in drawn["axes"]}
    figures = json.loads((DOCS / "published_cifar10.json").read_text())["figures"]
    told = [(f["name"], f["values"]["top1"], f["values"]["inference"], f["values"]["macs"]) for f in drawn["published"]]
    assert told == [(f["name"], f["top1"], f["parameters"], f["macs"]) for f in figures]


def test_predictions_that_are_not_the_manifests_are_not_shown(tmp_path, monkeypatch):
    content = bytearray((ROOT / "hub" / OURS[0] / "predictions.npz").read_bytes())
    content[-1] ^= 1
    (tmp_path / "predictions.npz").write_bytes(content)
    monkeypatch.setattr("zoo.gallery.beside.predictions_here", lambda name: tmp_path / "predictions.npz")
    with pytest.raises(zoo.HashMismatchError, match="sha256 mismatch"):
        build(tmp_path / "site", [OURS[0]])
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("name", ["benchmarks.json", "corruptions.csv"])
def test_a_damaged_measured_file_is_one_line(name, tmp_path, monkeypatch):
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / name).write_bytes(b"\xff{")
    monkeypatch.setattr(measured_files, "PACKAGE", tmp_path)
    with pytest.raises(zoo.ZooError, match=f"{name}: cannot be read"):
        measured_files.read_measured(name)


def test_without_jinja2_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(zoo.ZooError, match=r"pip install 'repara-zoo\[gallery\]'"):
        build(tmp_path / "site")
    assert not any(tmp_path.iterdir())
