"""The gallery in a real browser: from the disk and under a sub-path, by mouse and keyboard, in light and dark."""

import html
import os

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

import zoo
from conftest import ROOT
from gallery_browser import Visit, launched, served
from zoo.data.images import evaluation_transform, load_image
from zoo.evaluation.compare import compare
from zoo.evaluation.predict import label_names
from zoo.evaluation.predictions import read_predictions
from zoo.gallery import animations, build
from zoo.weights.manifest import weights

pytest.importorskip("jinja2")
FMNIST, C10, PLAIN = "lrunet1_100.zoo_fmnist", "symm_wrn_16_1.zoo_c10", "wrn_16_1.zoo_c10"
SPARSE = "sparse_wrn_16_1.zoo_dsr_s90_c10"
SITE = (FMNIST, C10, PLAIN, SPARSE)
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a site, built once for all processes of the tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "gallery site"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            build(folder, SITE)
    return folder


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def start(request, site):
    """The site's address: a folder on the disk, or below a path of a server."""
    if getattr(request, "param", "disk") == "disk":
        yield f"{site.as_uri()}/"
    else:
        with served(site, "/lab/zoo") as address:
            yield address


def from_both(*marks):
    """For what a browser treats otherwise on the disk than from a server: scripts, WebAssembly, what it remembers."""
    addresses = ["disk", pytest.param("sub-path", marks=marks)]
    return pytest.mark.parametrize("start", addresses, indirect=True, scope="module")


@pytest.fixture
def visit(browser, start):
    """A visitor; whatever their pages complain of, or ask others for, fails the test."""
    context = browser.new_context(reduced_motion="reduce", viewport={"width": 1280, "height": 900})
    found = Visit(context, start)
    yield found
    context.close()
    assert found.complaints == []


@pytest.fixture(scope="module")
def networks():
    return {name: zoo.create_model(name, pretrained=True).eval() for name in (FMNIST, C10)}


def pictures(folder):
    """Image files that come in every form that matters: sizes, sides, grey, transparent, as small as the network's."""
    x, y = np.meshgrid(np.linspace(0, 1, 97), np.linspace(0, 1, 61))
    waves = np.stack([np.sin(9 * x) * y, np.cos(13 * y) * x, np.sin(20 * x * y)], -1)
    colours = np.rint(255 * (waves - waves.min()) / np.ptp(waves)).astype(np.uint8)
    alpha = np.dstack([colours, np.where(x > 0.5, 255, 0).astype(np.uint8)])
    images = {"wide": colours, "tall": colours.swapaxes(0, 1), "grey": colours[..., 0], "small": colours[:32, :32]}
    for name, pixels in (images | {"transparent": alpha}).items():
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{name}.png")
    return sorted(folder.glob("*.png"))


def python_says(model, path):
    """What Python makes of an image file: its pixels as the network sees them, and scores."""
    config = {key: model.pretrained_cfg[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct")}
    seen = evaluation_transform(config, normalise=False)(load_image(path, config["input_size"][0]))
    image = evaluation_transform(config)(load_image(path, config["input_size"][0]))
    with torch.inference_mode():
        return np.asarray(seen), model(image[None])[0].double().numpy()


def browser_says(page, name):
    """What stands in the page: pixels of the little picture, each form's scores and percentages by label, and words."""
    return page.evaluate(
        """name => {
            const place = document.querySelector(`[data-network="${name}"]`), seen = place.querySelector("canvas");
            const pixels = seen.getContext("2d").getImageData(0, 0, seen.width, seen.height);
            const rows = [...place.querySelectorAll("[data-label]")].sort((a, b) => a.dataset.label - b.dataset.label);
            return {
                pixels: [...pixels.data], guess: place.querySelector("[data-guess]").textContent,
                scores: [0, 1].map(k => rows.map(r => Number(r.querySelectorAll("td")[k].dataset.score))),
                shares: [0, 1].map(k => rows.map(r => Number(r.querySelectorAll("td")[k].dataset.probability))),
                difference: Number(place.querySelector("[data-difference]").dataset.difference),
                times: [...place.querySelectorAll("[data-time]")].map(e => Number(e.dataset.time)),
            };
        }""",
        name,
    )


@from_both()
def test_a_browser_predicts_what_python_does(visit, networks, tmp_path):
    page = visit.open("try.html")
    files = pictures(tmp_path)
    for path in files[:: 1 if visit.start.startswith("file") else 4]:
        page.evaluate("delete document.body.dataset.tried")
        page.set_input_files("#try-file", path)
        page.locator("body[data-tried=done]").wait_for()
        for name, model in networks.items():
            found, (seen, scores) = browser_says(page, name), python_says(model, path)
            shown = np.array(found["pixels"]).reshape(*seen.shape[1:], 4)[..., :3].transpose(2, 0, 1)
            assert np.array_equal(shown, np.broadcast_to(seen, shown.shape)), f"{name} sees other pixels of {path.name}"
            for form in (0, 1):
                assert np.abs(np.array(found["scores"][form]) - scores).max() < 1e-4 * max(1, np.abs(scores).max())
            probabilities = torch.from_numpy(scores).softmax(0).numpy()
            assert np.abs(np.array(found["shares"]) - probabilities).max() < 1e-4
            best = label_names(model, "fashion-mnist" if name == FMNIST else "cifar10")[int(scores.argmax())]
            assert found["guess"].startswith(f"{best}, {100 * probabilities.max():.1f}")
            gaps = np.abs(np.subtract(*found["scores"]))
            assert found["difference"] == pytest.approx(gaps.max())
            assert len(found["times"]) == 2
            assert min(found["times"]) > 0


def rows(page):
    return page.locator("#weights tbody tr:visible").evaluate_all("rows => rows.map(row => row.dataset.name)")


@from_both(slow)
def test_the_table_sorts_filters_and_searches_and_the_plot_follows(visit):
    page, entries = visit.open("index.html"), weights()
    by_top1 = sorted(SITE, key=lambda name: -entries[name]["results"][0]["top1"])
    assert rows(page) == by_top1
    for order in ("descending", "ascending"):
        page.locator("#weights thead th", has_text="not zero").click()
        page.locator(f"#weights th[aria-sort={order}]", has_text="not zero").wait_for()
        expected = sorted(SITE, key=lambda name: entries[name]["params"]["nonzero"], reverse=order == "descending")
        assert rows(page) == expected

    page.select_option("#f-dataset", "cifar10")
    cifar = [name for name in SITE if entries[name]["dataset"] == "cifar10"]
    assert sorted(rows(page)) == sorted(cifar)
    assert page.inner_text("#f-count") == f"{len(cifar)} of {len(SITE)} weights"
    page.fill("#f-params", "170k")
    few = [name for name in cifar if entries[name]["params"]["nonzero"] <= 170_000]
    assert sorted(rows(page)) == sorted(few) and 0 < len(few) < len(cifar)
    page.fill("#f-q", "symm")
    assert rows(page) == [C10]
    page.click("#f-reset")
    page.locator("#f-count", has_text=f"{len(SITE)} of").wait_for()

    for x in ("top1", "nonzero", "inference"):
        page.select_option("#x", x)
        drawn = page.evaluate(
            """() => Object.fromEntries(document.getElementById("pareto").data.filter(t => t.mode === "markers")
                .flatMap(t => t.customdata.map((name, i) => [name, t.x[i]])).filter(pair => pair[0]))"""
        )
        figures = {n: e["params"] | {"top1": e["results"][0]["top1"]} for n, e in entries.items() if n in SITE}
        assert drawn == {name: found[x] for name, found in figures.items()}
        title = page.locator(f"#x option[value={x}]").inner_text()
        assert page.locator("#pareto .xtitle").text_content() == title
    assert f"x={x}" in page.url
    hollow = "() => document.getElementById('pareto').data.some(t => /other zoos/.test(t.name))"
    assert page.evaluate(hollow)
    page.uncheck("#published")
    assert not page.evaluate(hollow)


def test_the_search_box_leads_to_a_weight_by_keyboard(visit):
    page = visit.open("index.html")
    page.keyboard.press("/")
    page.keyboard.type("symm_wrn_16_1 zoo_c10")
    page.locator("#found [role=option]", has_text=C10).wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/weights/{C10}.html")
    assert page.locator("h1").inner_text() == C10


def test_snippets_are_copied_as_they_stand(visit):
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.open(f"weights/{FMNIST}.html")
    buttons = page.locator("#use ~ * [data-copy], section:has(#use) [data-copy]")
    assert buttons.count() >= 4
    copied = []
    for button in buttons.all():
        button.click()
        page.locator("#said", has_text="Copied").wait_for()
        copied.append(page.evaluate("navigator.clipboard.readText()"))
        shown = page.locator(f"#{button.get_attribute('data-copy')}")
        assert copied[-1] == shown.text_content()
        page.evaluate("document.getElementById('said').textContent = ''")
    everything = "\n".join(copied)
    for words in (f'timm.create_model("{FMNIST}", pretrained=True)', "torch.hub.load(", f"zoo predict {FMNIST}"):
        assert words in everything


@from_both(slow)
def test_a_comparison_is_that_of_zoo_compare(visit):
    page = visit.open(f"compare.html#w={PLAIN},{C10},{SPARSE}")
    first, *others = (read_predictions(ROOT / "hub" / name / "predictions.npz") for name in (PLAIN, C10, SPARSE))
    page.locator("#c-table tbody tr").nth(1).wait_for()
    for expected in (compare(first, other) for other in others):
        found = page.locator("#c-table tbody tr", has_text=expected.second)
        cells = [cell.replace(",", "") for cell in found.locator("td").all_inner_texts()]
        figures = [expected.both, expected.only_first, expected.only_second, expected.neither]
        assert cells[3:7] == [str(figure) for figure in figures]
        top1 = 100 * (expected.both + expected.only_second) / expected.n
        assert (float(cells[0]), float(cells[1])) == (pytest.approx(top1), expected.difference)
        assert cells[2] == "{:+.2f} to {:+.2f}".format(*expected.interval)
    page.select_option("#c-which", f"only:{C10}")
    shown = (~first.right & others[0].right & ~others[1].right).sum()
    assert page.inner_text("#c-count").endswith(f"of {shown} images shown")


@from_both(slow)
def test_a_theme_is_chosen_and_remembered(visit):
    page = visit.open("index.html")
    theme = "() => [document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor]"
    before = page.evaluate(theme)
    page.click("#theme")
    from playwright.sync_api import expect  # which the visitor needed too

    expect(page.locator("body")).not_to_have_css("background-color", before[1])
    after = page.evaluate(theme)
    assert (before[0], after[0]) == ("light", "dark")
    assert page.locator("#theme").get_attribute("aria-pressed") == "true"
    visit.open("families/index.html")
    assert page.evaluate(theme) == after


def test_the_keyboard_reaches_everything(visit):
    page = visit.open("try.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.firstChild?.alt || ''"))
        if reached[-1] == "ship":
            break
    assert {"try-file", "try-inverted", "try-pen", "try-clear", "ship"} <= {*reached}
    page.keyboard.press("Enter")
    page.locator("body[data-tried=done]").wait_for()
    assert "ship" in page.locator(f"[data-network='{C10}'] [data-guess]").inner_text()


@pytest.mark.parametrize(
    "family", ["sharing", *(pytest.param(f, marks=slow) for f in ("lrunet", "sparse", "symmetry"))]
)
def test_a_familys_picture_moves_when_asked(visit, family):
    page = visit.open(f"families/{family}.html")
    figure = page.locator("#moving")
    page.locator("#moving[data-step='0'] .main-svg").first.wait_for()
    z = "() => { const t = document.getElementById('moving').data.at(-1); return JSON.stringify(t.z || t.x); }"
    first, words = page.evaluate(z), page.inner_text("#moving-step")
    page.click("[data-step=on]")
    page.locator("#moving[data-step='1']").wait_for()
    assert page.evaluate(z) != first and page.inner_text("#moving-step") != words
    page.focus("#moving-range")
    page.keyboard.press("Home")
    page.locator("#moving[data-step='0']").wait_for()
    assert (page.evaluate(z), page.inner_text("#moving-step")) == (first, words)
    assert figure.get_attribute("role") == "img" and len(page.inner_text("figcaption")) > 100


KINDS = (
    "index.html",
    "compare.html",
    "families/index.html",
    "families/symmetry.html",
    "try.html",
    f"weights/{C10}.html",
)


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=slow)])
@pytest.mark.parametrize("path", KINDS)
def test_pages_are_accessible_and_fit_a_phone(browser, site, path, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    size = {"width": 375, "height": 800}
    context = browser.new_context(reduced_motion="reduce", viewport=size, color_scheme=theme)
    visit = Visit(context, f"{site.as_uri()}/")
    page = visit.open(path)
    assert page.evaluate("[document.documentElement.dataset.theme, document.documentElement.scrollWidth]") == [
        theme,
        375,
    ]
    # preloading would ask for the style sheet, which a page on the disk may not
    found = axe.run(page, options={"preload": False, "resultTypes": ["violations"]}).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
    context.close()
    assert visit.complaints == []


@pytest.mark.parametrize(
    ("patched", "value", "words"),
    [
        ("try_page.ENGINE", ROOT / "nowhere", "install the package anew"),
        ("try_page.require", lambda *_: _refuse("pip install 'repara-zoo[export]'"), "pip install"),
        ("at_hand.is_here", lambda name: False, f"after zoo fetch {FMNIST}"),
    ],
    ids=["engine", "extra", "weight"],
)
def test_what_is_missing_is_said_in_the_page(tmp_path, monkeypatch, patched, value, words):
    monkeypatch.setattr(f"zoo.gallery.{patched}", value)
    build(tmp_path / "site", [FMNIST])
    assert words in html.unescape((tmp_path / "site" / "try.html").read_text())
    if patched == "at_hand.is_here":
        assert "after zoo fetch" in (tmp_path / "site" / "families" / "sparse.html").read_text()


def _refuse(words):
    raise zoo.ZooError(words)


def test_a_damaged_weight_is_no_weight_that_is_missing(monkeypatch):
    def damaged(name):
        raise zoo.HashMismatchError(f"{name} has another sha256")

    monkeypatch.setattr("zoo.gallery.animations.load_here", damaged)
    monkeypatch.setattr("zoo.gallery.animations._drawn", animations._drawn.__wrapped__)
    with pytest.raises(zoo.HashMismatchError):
        animations.animation("symmetry")


def test_the_last_step_of_the_branches_is_the_kernel_that_is_kept():
    found = animations.animation("paradise")
    frames = found["figure"]["frames"]
    assert [len(frame["data"]) for frame in frames] == [2] * 6
    kept, total = (np.array(part["z"], float) for part in frames[-1]["data"])
    assert np.nanmax(np.abs(kept - total)) < 1e-6 < np.nanmax(np.abs(kept))
    before = np.array(frames[-3]["data"][1]["z"], float) + np.array(frames[-2]["data"][0]["z"], float)
    assert np.nanmax(np.abs(before - total)) < 0.02 * np.nanmax(np.abs(total))  # what is drawn has three digits


def test_a_file_that_is_no_image_is_told_and_the_next_one_works(visit, tmp_path):
    page = visit.open("try.html")
    (tmp_path / "not.png").write_text("not a picture")
    page.set_input_files("#try-file", tmp_path / "not.png")
    page.locator("#try-status", has_text="cannot be read as an image").wait_for()
    page.evaluate("delete document.body.dataset.tried")
    page.locator("img[alt='Sneaker']").click()
    page.locator("body[data-tried=done]").wait_for()
    assert page.inner_text(f"[data-network='{FMNIST}'] [data-guess]").startswith("Sneaker")
