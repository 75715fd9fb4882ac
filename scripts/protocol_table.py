"""Run the whole model protocol for every registered architecture, into docs/protocol.jsonl.

    python scripts/protocol_table.py                 all that the file lacks, smallest first
    python scripts/protocol_table.py 'swrn_*'        those, again

The suite runs the protocol for the smallest networks of each family; this takes hours for all. Results are written
after each network, so that a run can be stopped and goes on where it was; scripts/update_docs.py makes the table.
"""

import argparse
import datetime
import fnmatch
import json
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "golden")]

import timm  # noqa: E402
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

import zoo  # noqa: E402
from protocol import CHECKS, close, images, make  # noqa: E402
from testers import FamilyTester, family_testers  # noqa: E402

RESULTS = ROOT / "docs" / "protocol.jsonl"


def check_reparameterize(name: str) -> None:
    """The collapsed network computes the same in float64, with batch norms kept and folded."""
    model = make(name).double()
    x = images(model, 1).double()
    with torch.no_grad():
        expected = model(x)
        for batch_norm in ("keep", "fold"):
            close(zoo.reparameterize(model, batch_norm=batch_norm)(x), expected, 1e-10)


def run(name: str, tester: type[FamilyTester]) -> dict:
    """All checks of one architecture: 'ok', the reason why one does not apply, or the error."""
    row: dict = {"name": name, "checks": {}}
    started = time.time()
    excuses = {k: v for k, v in tester.exceptions.items() if fnmatch.fnmatch(name, k[0])}
    patterns = [p for k, v in tester.without_gradient.items() if fnmatch.fnmatch(name, k) for p in v]
    for label, check in {**CHECKS, "reparameterize": check_reparameterize}.items():
        reason = next((v for k, v in excuses.items() if k[1] == label), None)
        if reason:
            row["checks"][label] = reason
            continue
        try:
            check(name, **({"without_gradient": tuple(patterns)} if label == "backward" else {}))
            row["checks"][label] = "ok"
        except Exception as error:  # whatever goes wrong is the result
            row["checks"][label] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
    with torch.device("meta"):
        row["params"] = sum(p.numel() for p in timm.create_model(name).parameters())
    row |= {"seconds": round(time.time() - started, 1), "date": str(datetime.date.today())}
    row["versions"] = {"torch": torch.__version__.split("+")[0], "timm": timm.__version__, "zoo": zoo.__version__}
    return row


def _problems(row: dict) -> list[str]:
    excused = {reason for tester in family_testers().values() for reason in tester.exceptions.values()}
    return [label for label, outcome in row["checks"].items() if outcome != "ok" and outcome not in excused]


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", help="shell pattern over names; these are run again")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = {}
    if RESULTS.exists():
        rows = {row["name"]: row for row in map(json.loads, RESULTS.read_text().splitlines())}
    names = zoo.list_models(options.pattern or "*")
    sizes = {}
    for name in names if options.pattern else [n for n in names if n not in rows]:
        with torch.device("meta"):
            sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
    testers = family_testers()
    for name in tqdm(sorted(sizes, key=sizes.get), disable=None):
        rows[name] = run(name, testers[zoo.registry.family_of(name)])
        RESULTS.write_text("".join(json.dumps(rows[n]) + "\n" for n in sorted(rows)))
        for label in _problems(rows[name]):
            print(name, label, rows[name]["checks"][label], file=sys.stderr)


if __name__ == "__main__":
    main()
