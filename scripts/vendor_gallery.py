"""Bring the scripts of others that the gallery ships, at the versions that are named here, from the npm registry.

python scripts/vendor_gallery.py

Each package is packed by npm, its sha512 compared with what is written here, and the named files with the licence are
put into zoo/gallery/vendor; versions.json there says what they are. To move to another version, change it here with
the integrity that ``npm view NAME@VERSION dist.integrity`` prints.
"""

import base64
import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "zoo" / "gallery" / "vendor"

PACKAGES = {
    "datatables.net": {
        "version": "3.1.5",
        "integrity": "sha512-phu9fVz1cOhD7kZDO5Ztj15qwghCkmdwX5AezLi+PxfMtnFAq0itpewvXzdwdr6bOwPqO2zuXsXWUU5x3wQptw==",
        "licence": "MIT",
        "files": {"js/dataTables.min.js": "dataTables.min.js", "License.txt": "datatables.net.LICENSE"},
    },
    "plotly.js-cartesian-dist-min": {
        "version": "4.1.1",
        "integrity": "sha512-o8GrFeusncwBIxbBynRJpY4pkgVB6caM+JLpwrLYbbsO7dZ8FJ+SVN2Fr+L7kiG/Z6w4P5O0Jus/Qr5EefHVeg==",
        "licence": "MIT",
        "files": {"plotly-cartesian.min.js": "plotly-cartesian.min.js", "LICENSE": "plotly.js.LICENSE"},
    },
}
"""By name: version, integrity of the packed archive, licence, and the files that are taken with their names here."""


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
    versions = {}
    for name, package in PACKAGES.items():
        written = {}
        with tempfile.TemporaryFile() as file:
            file.write(archives[name])
            file.seek(0)
            with tarfile.open(fileobj=file) as archive:
                for inside, here in package["files"].items():
                    content = archive.extractfile(f"package/{inside}").read()
                    (TARGET / here).write_bytes(content)
                    written[here] = hashlib.sha256(content).hexdigest()
        versions[name] = {key: package[key] for key in ("version", "integrity", "licence")} | {"files": written}
        print(name, package["version"], *written)
    (TARGET / "versions.json").write_text(json.dumps(versions, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
