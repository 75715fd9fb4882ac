"""The gallery in a real browser: from the disk and under a sub-path, by mouse and keyboard, in light and dark."""

import os

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

import zoo
from gallery_browser import Visit, launched, served
from zoo.data.images import evaluation_transform, load_image
from zoo.evaluation.predict import label_names

pytest.importorskip("jinja2")
FMNIST, C10, PLAIN = "lrunet1_100.zoo_fmnist", "swrn_28_1_2.zoo_c10", "wrn_28_1.zoo_c10"
SITE = (FMNIST, C10, PLAIN, "lrunet10_100.zoo_fmnist", "sparse_wrn_28_2.zoo_dsr_s90_c10", "symm_wrn_16_1.zoo_c10")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a site, built once for all processes of the tests."""
    from zoo.gallery import build

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


@pytest.fixture(scope="module", params=["disk", "sub-path"])
def start(request, site):
    """The site's address: a folder on the disk, or below a path of a server."""
    if request.param == "disk":
        yield f"{site.as_uri()}/"
    else:
        with served(site, "/lab/zoo") as address:
            yield address


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


def test_a_browser_predicts_what_python_does(visit, networks, tmp_path):
    page = visit.open("try.html")
    files = pictures(tmp_path)
    for path in files[:: 1 if visit.start.startswith("file") else 3]:
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
