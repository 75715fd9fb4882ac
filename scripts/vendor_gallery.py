"""Bring the scripts of others that the gallery ships, at the versions that are named here, from the npm registry.

python scripts/vendor_gallery.py

Each package is packed by npm, its sha512 compared with what is written here, and the named files with the licence are
put into folders of zoo/gallery; versions.json in each says what they are. To move to another version, change it here
with the integrity that ``npm view NAME@VERSION dist.integrity`` prints.
"""

import base64
import hashlib
import json
import lzma
import subprocess
import tarfile
import tempfile
from pathlib import Path

GALLERY = Path(__file__).resolve().parent.parent / "zoo" / "gallery"

PACKAGES = {
    "datatables.net": {
        "folder": "vendor",
        "version": "3.1.5",
        "integrity": "sha512-phu9fVz1cOhD7kZDO5Ztj15qwghCkmdwX5AezLi+PxfMtnFAq0itpewvXzdwdr6bOwPqO2zuXsXWUU5x3wQptw==",
        "licence": "MIT",
        "files": {"js/dataTables.min.js": "dataTables.min.js", "License.txt": "datatables.net.LICENSE"},
    },
    "plotly.js-cartesian-dist-min": {
        "folder": "vendor",
        "version": "4.1.1",
        "integrity": "sha512-o8GrFeusncwBIxbBynRJpY4pkgVB6caM+JLpwrLYbbsO7dZ8FJ+SVN2Fr+L7kiG/Z6w4P5O0Jus/Qr5EefHVeg==",
        "licence": "MIT",
        "files": {"plotly-cartesian.min.js": "plotly-cartesian.min.js", "LICENSE": "plotly.js.LICENSE"},
    },
    # only a checkout has it; its archive has no text of its licence: the LICENSE beside it is that of its repository
    "onnxruntime-web": {
        "folder": "onnxruntime_web",
        "version": "1.30.0",
        "integrity": "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        "licence": "MIT",
        "files": {
            "dist/ort.wasm.min.js": "ort.wasm.min.js",
            "dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.mjs",
            "dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm.xz",
        },
    },
}
"""By name: folder, version, integrity of the packed archive, licence, and the files taken with their names here; what
gets the ending ``.xz`` is compressed, 14 MB to 2.2."""


def fetch(name: str, version: str, integrity: str) -> bytes:
    """The archive of a package, its integrity checked."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", f"{name}@{version}", "--silent", "--pack-destination", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        content = archive.read_bytes()
    found = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != integrity:
        raise SystemExit(f"{name}@{version} is {found}, not {integrity}: nothing was changed by it.")
    return content


def main() -> None:
    """Fetch all, then replace what is there."""
    archives = {name: fetch(name, p["version"], p["integrity"]) for name, p in PACKAGES.items()}
    versions: dict[str, dict] = {package["folder"]: {} for package in PACKAGES.values()}
    for name, package in PACKAGES.items():
        written = {}
        with tempfile.TemporaryFile() as file:
            file.write(archives[name])
            file.seek(0)
            with tarfile.open(fileobj=file) as archive:
                for inside, here in package["files"].items():
                    content = archive.extractfile(f"package/{inside}").read()
                    if here.endswith(".xz"):
                        content = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
                    (GALLERY / package["folder"] / here).write_bytes(content)
                    written[here] = hashlib.sha256(content).hexdigest()
        about = {key: package[key] for key in ("version", "integrity", "licence")}
        versions[package["folder"]][name] = about | {"files": written}
        print(name, package["version"], *written)
    for folder, found in versions.items():
        (GALLERY / folder / "versions.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
