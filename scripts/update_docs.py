"""Write the tables of weights in README.md, docs/weights.md, docs/results.md, docs/evidence.md and
docs/deploy.md, and the cards of the staged weights, from weights_manifest.json.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import count_networks  # noqa: E402
from deploy_page import deploy_page  # noqa: E402
from evidence_page import evidence_page, front_figure  # noqa: E402
from plots import save  # noqa: E402
from results_page import results_figure, results_page, symmetry_figure  # noqa: E402

from zoo import counted  # noqa: E402
from zoo.errors import ZooError  # noqa: E402
from zoo.files import write_atomically  # noqa: E402
from zoo.weights.card import model_card  # noqa: E402
from zoo.weights.manifest import facts, manifest, paper_of, paper_url, source, trained_by, weights  # noqa: E402

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
        "the authors" if entry["origin_url"] else trained_by(entry),
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


FEW = 15
"""A weight of fewer epochs is a first try."""

RULE = f"""
In this table stands what was trained for {FEW} epochs or more, if no other such weight of its data set is at least as
accurate with at most as many parameters that are not zero; and the twins that it is compared with.

<details><summary>Our other weights: first tries in few epochs, and what another weight surpasses</summary>

"""


def worth_choosing(entries: dict[str, dict]) -> list[str]:
    """The weights that a reader would choose among, by :data:`RULE`, in no order; the authors' have many epochs."""
    known = {n: e for n, e in entries.items() if e["results"] and (e["origin"] == "zoo" or e["origin_url"])}
    grown = {n: e for n, e in known.items() if e.get("epochs", FEW) >= FEW}

    def cost(name: str) -> tuple[float, int]:
        return -grown[name]["results"][0]["top1"], grown[name]["params"]["nonzero"]

    def surpasses(a: str, b: str) -> bool:
        """Whether one is as good in both and better in one; of equals, the first."""
        if grown[a]["dataset"] != grown[b]["dataset"]:
            return False
        no_worse = all(x <= y for x, y in zip(cost(a), cost(b), strict=True))
        return no_worse and (cost(a) != cost(b) or [*grown].index(a) < [*grown].index(b))

    best = [name for name in grown if not any(surpasses(other, name) for other in grown)]
    twins = [twin for name in best for twin in grown[name].get("twins", []) if twin in grown]
    return [*dict.fromkeys([*best, *twins])]


def table_of(names: Iterable[str]) -> str:
    """A table of these weights."""
    chosen = by_accuracy({name: weights()[name] for name in names})
    return "\n".join([*HEADER, *(row(name, entry) for name, entry in chosen.items())]) + "\n"


def readme_section() -> str:
    """The weights worth choosing."""
    return table_of(worth_choosing(weights()))


def below_the_fold() -> str:
    """The rest of ours."""
    chosen = worth_choosing(weights())
    return table_of(n for n, e in weights().items() if e["origin"] == "zoo" and n not in chosen)


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
        hub = "hub" if staged and (ROOT / "hub" / staged["path"]).is_file() else "$ZOO_HUB"
        place = f"`{hub}/{staged['path']}`" if staged else f"<{release['url']}>" if release else "the Hub"
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
    table = f"{readme_section()}{RULE}{below_the_fold()}\n</details>\n"
    return before + START + table + END + rest.split(END, 1)[1]


def files() -> dict[Path, str]:
    """Every text, by where it belongs. All are made before one is written."""
    readme = ROOT / "README.md"
    texts = {readme: updated(readme.read_text())}
    texts |= {counted.FILE: count_networks.counts()}  # of what is new
    texts |= {ROOT / "docs" / "weights.md": page(), ROOT / "docs" / "results.md": results_page(weights())}
    texts |= {ROOT / "docs" / "evidence.md": evidence_page(weights()), ROOT / "docs" / "deploy.md": deploy_page()}
    for card in (ROOT / "hub").glob("*/README.md"):
        name = card.parent.name
        texts[card] = model_card(name, facts(name), files=[path.name for path in card.parent.iterdir()])
    return texts


def main() -> None:
    """Make everything, then write everything."""
    texts = files()
    figures = {"results.png": results_figure(weights()), "symmetry.png": symmetry_figure(weights())}
    figures |= {"front.png": front_figure(weights())}
    for path, text in texts.items():
        write_atomically(text.encode(), path)
    for name, figure in figures.items():
        save(figure, ROOT / "docs" / name)


if __name__ == "__main__":
    try:
        main()
    except ZooError as error:
        sys.exit(str(error))
