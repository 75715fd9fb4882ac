"""The page on which networks run in the visitor's browser: their ONNX files, the engine, examples to click."""

import base64
import functools
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np

from ..data import DATASETS
from ..data.arrays import read_arrays
from ..errors import ZooError
from ..extras import require
from ..files import is_file
from ..weights.paths import PACKAGE
from .at_hand import check_here, load_here
from .drawings import DRAWINGS

NETWORKS = ("lrunet1_100.zoo_fmnist", "symm_wrn_16_1.zoo_c10")
"""The weights that are tried: small ones, whose forms are different work."""

ENGINE = Path(__file__).parent / "onnxruntime_web"
"""ONNX Runtime Web, as ``scripts/vendor_gallery.py`` fetched it."""

FORMS = ("train form", "collapsed")
SAMPLE = PACKAGE / "data" / "fashion_mnist_1000"
_HERE = "try"


def try_page(folder: Path, records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Write what the page needs into the site's folder.

    Args:
        folder: Of the site that is being built.
        records: The weights in it, as :func:`zoo.gallery.facts.all_facts` gives them.

    Returns:
        What its template ``try.html`` is given: ``networks``, each with its ``record`` and the ``bytes`` of its forms,
        or ``missing``, why it cannot be tried; ``examples`` to click; ``missing``, why there is no engine; and
        ``facts``, for its script. None for no such page, and no link to one: the site has neither of the weights.

    Raises:
        ZooError: If a file on this machine is damaged.
    """
    chosen = [record for name in NETWORKS for record in records if record["name"] == name]
    if not chosen:
        return None
    engine, missing = _engine(folder)
    networks = [{"record": record} | ({} if missing else _network(folder, record)) for record in chosen]
    ready = [network for network in networks if "script" in network]
    return {
        "networks": networks,
        "missing": missing,
        "examples": _examples({record["dataset"] for record in chosen}),
        "facts": {"scripts": [engine, *(n["script"] for n in ready)], "networks": [n["facts"] for n in ready]},
    }


def _engine(folder: Path) -> tuple[str, str]:
    """The script that holds the engine's two files, and why there is none."""
    loader, wasm = (ENGINE / f"ort-wasm-simd-threaded.{ending}" for ending in ("mjs", "wasm.xz"))
    if not (is_file(loader) and is_file(wasm)):
        return "", (
            "The engine, ONNX Runtime Web, is not in the package's folder gallery/onnxruntime_web: install the package "
            "anew, or in a checkout run python scripts/vendor_gallery.py."
        )
    try:
        files = {"loader": loader.read_bytes(), "wasm": lzma.decompress(wasm.read_bytes())}
    except (OSError, lzma.LZMAError) as error:
        raise ZooError(f"{wasm}: cannot be read ({error}). Fetch it again: python scripts/vendor_gallery.py") from None
    (folder / _HERE).mkdir(exist_ok=True)
    (folder / _HERE / "ort.wasm.min.js").write_bytes((ENGINE / "ort.wasm.min.js").read_bytes())
    (folder / _HERE / "LICENSE.onnxruntime-web.txt").write_bytes((ENGINE / "LICENSE").read_bytes())
    return _script(folder, "engine", files), ""


def _network(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """A network's script and facts, or why there are none."""
    name, prepared = record["name"], record["preprocessing"]
    try:
        check_here(name)
        for module in ("onnx", "onnxscript", "onnxruntime"):
            require(module, "export")
    except ZooError as error:
        return {"missing": str(error)}
    if prepared["interpolation"] != "bilinear":
        return {"missing": f"The page resizes images bilinearly only, and {name} wants {prepared['interpolation']}."}
    files = _files(name, record["sha256"])
    facts = {
        "name": name,
        "classes": list(DATASETS[record["dataset"]].classes),
        "size": prepared["input_size"],
        "crop": prepared["crop_pct"],
        "mean": prepared["mean"],
        "std": prepared["std"],
        "forms": [{"name": form, "key": f"{name}, {form}"} for form in FORMS],
    }
    sizes = {form: len(content) for form, content in files.items()}
    script = _script(folder, name, {f"{name}, {form}": content for form, content in files.items()})
    return {"script": script, "facts": facts, "bytes": sizes}


@functools.cache
def _files(name: str, sha256: str) -> dict[str, bytes]:
    """The ONNX files of a weight by form; kept, as several sites may be built by one process."""
    from .onnx_forms import onnx_form

    model = load_here(name)
    return {form: onnx_form(model, name, collapsed=form == "collapsed") for form in FORMS}


def _script(folder: Path, name: str, files: dict[str, bytes]) -> str:
    """Files as a script that puts them, gzipped and in base64, into the global ``ZOO``; returns its path."""
    path = f"{_HERE}/{name}.js"
    packed = {key: base64.b64encode(gzip.compress(content, 6, mtime=0)).decode() for key, content in files.items()}
    (folder / _HERE).mkdir(exist_ok=True)
    (folder / path).write_text(f"Object.assign(window.ZOO=window.ZOO||{{}},{json.dumps(packed)});\n", encoding="utf-8")
    return path


def _examples(datasets: set[str]) -> list[dict[str, str]]:
    """Images to click, as addresses that hold them: the first of each class of the bundled sample, and drawings."""
    found = []
    if "fashion-mnist" in datasets:
        images, labels, *_ = read_arrays("fashion-mnist", SAMPLE, "test")
        for label, title in enumerate(DATASETS["fashion-mnist"].classes):
            image = images[int(np.flatnonzero(labels == label)[0])]
            found.append({"title": title, "kind": "Fashion-MNIST, test image", "image": _png(image)})
    if "cifar10" in datasets:
        found += [{"title": t, "kind": "drawn by a formula", "image": _png(draw())} for t, draw in DRAWINGS.items()]
    return found


def _png(pixels: np.ndarray) -> str:
    """An image (height, width) or (height, width, 3), uint8, as an address that holds it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.squeeze(pixels)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
