"""Write the tables of weights in README.md, docs/weights.md and docs/results.md, and the
cards of the staged weights, from weights_manifest.json.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import count_networks  # noqa: E402
from plots import save  # noqa: E402
from results_page import results_figure, results_page, symmetry_figure  # noqa: E402

from zoo import counted  # noqa: E402
from zoo.errors import ZooError  # noqa: E402
from zoo.files import write_atomically  # noqa: E402
from zoo.weights.card import model_card  # noqa: E402
from zoo.weights.manifest import facts, manifest, paper_of, paper_url, source, weights  # noqa: E402

START = "<!-- weights: made by scripts/update_docs.py from weights_manifest.json -->\n"
END = "<!-- /weights -->"


def row(name: str, entry: dict) -> str:
    """One line of a table."""
    result = entry["results"][0] if entry["results"] else None
    published = entry["paper_result"]
    low, high = result["interval95"] if result else (0, 0)
    ours = f"{result['top1']:.2f} ({low}-{high})" if result else "not measured"
    cells = [
        f"`{name}`",
        entry["dataset"],
        ours,
        f"{entry['params']['nonzero']:,}",
        *after_collapse(entry),
        f"{published['top1']:.2f}" if published else "-",
        "the authors" if entry["origin_url"] else {"zoo": "this project"}.get(entry["origin"], entry["origin"]),
    ]
    return "| " + " | ".join(cells) + " |"


def after_collapse(entry: dict) -> list[str]:
    """Parameters of the network of plain layers, batch norms folded, and megabytes of them, or as a smaller file."""
    form, count = entry.get("collapsed") or {}, entry["params"]["inference"]
    half = f" ({form['size'] / 1e6:.1f} in float16)" if form.get("dtype") == "float16" else ""
    return [f"{count:,}", f"{4 * count / 1e6:.1f} MB{half}"]


def by_accuracy(entries: dict[str, dict]) -> dict[str, dict]:
    """The same by data set, the most accurate first, those that nobody measured last."""

    def place(name: str) -> tuple[str, float]:
        results = entries[name]["results"]
        return entries[name]["dataset"], -results[0]["top1"] if results else 0

    return {name: entries[name] for name in sorted(entries, key=place)}


HEADER = [
    "| weight | data set | top-1 %, measured here (95 %) | parameters, not zero | parameters, collapsed "
    "| file, collapsed | published | trained by |",
    "|---|---|---:|---:|---:|---:|---:|---|",
]


def readme_section() -> str:
    """Our weights, and the authors' of the same architecture and data set."""
    ours = {(n.split(".")[0], e["dataset"]) for n, e in weights().items() if e["origin"] == "zoo"}
    chosen = {n: e for n, e in weights().items() if (n.split(".")[0], e["dataset"]) in ours}
    return "\n".join([*HEADER, *(row(name, entry) for name, entry in by_accuracy(chosen).items())]) + "\n"


def page() -> str:
    """docs/weights.md."""
    lines = [
        "# Weights",
        "",
        "Made by `python scripts/update_docs.py` from `weights_manifest.json`.",
        "",
        "The published figure of the authors' weights is that of the best of all epochs on the test set: selected",
        "on the images it is measured on; ours is that of the last epoch, and the test set was read once.",
        "",
        "Collapsed: parameters of the network of plain layers that computes the same, as `zoo.load_collapsed` has it:",
        "each use of a layer with a kernel of its own, batch norms folded; and the size of its file in float32 (in",
        "brackets, of a staged one in half precision).",
        "",
        *HEADER,
        *(row(name, entry) for name, entry in by_accuracy(weights()).items()),
        "",
        "## Where they are",
        "",
    ]
    for name, entry in weights().items():
        staged, release = source(entry, "staged"), source(entry, "release")
        place = f"`hub/{staged['path']}`" if staged else f"<{release['url']}>" if release else "the Hub"
        lines.append(
            f"- `{name}`: {place}, {entry['size']:,} bytes as safetensors, sha256 `{entry['sha256']}`, "
            f"{entry['licence']}; {paper_of(entry)['title']}, {paper_url(entry)}"
        )
    lines += [
        "",
        "## Authors' releases without a licence",
        "",
        "Nobody but their authors may pass these on, so this package does not fetch them. Who downloads one by hand",
        "converts it with `zoo import FILE --as ARCHITECTURE`; the plain ResNets are timm's own and need no conversion",
        "([imagenet.md](imagenet.md) has the commands that evaluate them). The links have not been tried.",
        "",
        "| architecture | arguments | file | published top-1 / top-5 % |",
        "|---|---|---|---|",
    ]
    for entry in manifest()["releases"]:
        arguments = ", ".join(f"{key}={value}" for key, value in entry["model_args"].items())
        place = f"<{entry['url']}>" if entry["url"] else entry["note"]
        figures = "{top1:.4f} / {top5:.4f}".format(**entry["published"])
        lines.append(f"| `{entry['architecture']}` | {arguments} | {place} | {figures} |")
    return "\n".join(lines) + "\n"


def updated(readme: str) -> str:
    """README.md with its table as it should be."""
    before, rest = readme.split(START)
    return before + START + readme_section() + END + rest.split(END, 1)[1]


def files() -> dict[Path, str]:
    """Every text, by where it belongs. All are made before one is written."""
    readme = ROOT / "README.md"
    texts = {readme: updated(readme.read_text())}
    texts |= {counted.FILE: count_networks.counts()}  # of what is new
    texts |= {ROOT / "docs" / "weights.md": page(), ROOT / "docs" / "results.md": results_page(weights())}
    for card in (ROOT / "hub").glob("*/README.md"):
        name = card.parent.name
        texts[card] = model_card(name, facts(name), files=[path.name for path in card.parent.iterdir()])
    return texts


def main() -> None:
    """Make everything, then write everything."""
    texts = files()
    figures = {"results.png": results_figure(weights()), "symmetry.png": symmetry_figure(weights())}
    for path, text in texts.items():
        write_atomically(text.encode(), path)
    for name, figure in figures.items():
        save(figure, ROOT / "docs" / name)


if __name__ == "__main__":
    try:
        main()
    except ZooError as error:
        sys.exit(str(error))
