"""Write zoo/networks.json: what is counted of every architecture, and of the network of every weight.

    python scripts/count_networks.py [--all]

Only what the file lacks, or what was counted of a module that has changed since, is counted; --all counts everything
again (about two minutes).
"""

import argparse
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from zoo import counted  # noqa: E402
from zoo.files import write_atomically  # noqa: E402
from zoo.models import FAMILIES  # noqa: E402
from zoo.overview import built_costs, built_params  # noqa: E402
from zoo.registry import describe_entry, list_models  # noqa: E402
from zoo.weights.manifest import weights  # noqa: E402


def counts(everything: bool = False) -> str:
    """The content of the file as it should be.

    Args:
        everything: Count what has been counted already too.
    """
    known = {"modules": {}, "weights": {}}
    if counted.FILE.is_file() and not everything:
        known = json.loads(counted.FILE.read_text())
    modules = {}
    for module, source in counted.source_digests().items():
        before = known["modules"].get(module, {})
        modules[module] = before if before.get("source") == source else _count_module(module, source)
    forms = {name: counted.form_of(entry) for name, entry in weights().items()}
    changed = {name for name, module in modules.items() if module != known["modules"].get(name)}
    of_weights = {}
    for name, form in sorted(forms.items()):
        before = known["weights"].get(name, {})
        home = next(module for module, facts in modules.items() if name.split(".", 1)[0] in facts["networks"])
        same = before.get("form") == form and home not in changed
        of_weights[name] = before if same else {"form": form, "costs": built_costs(name)}
    lines = [f'  "{name}": {json.dumps(facts)}' for name, facts in of_weights.items()]
    return (
        '{"modules": {\n'
        + ",\n".join(_module_text(name, facts) for name, facts in modules.items())
        + '\n},\n"weights": {\n'
        + ",\n".join(lines)
        + "\n}}\n"
    )


def _count_module(module: str, source: str) -> dict:
    family = next(family for family, modules in FAMILIES.items() if module in modules)
    networks = {}
    for name in list_models():
        if _home(name) == module:
            facts = {"family": family, "description": describe_entry(name), "params": built_params(name)}
            networks[name] = facts | built_costs(name)
    return {"source": source, "networks": networks}


def _home(name: str) -> str:
    from timm.models import model_entrypoint

    return model_entrypoint(name).__module__.rpartition(".")[2]


def _module_text(name: str, facts: dict) -> str:
    networks = ",\n".join(f'  "{arch}": {json.dumps(values)}' for arch, values in facts["networks"].items())
    return f' "{name}": {{"source": "{facts["source"]}", "networks": {{\n{networks}\n }}}}'


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="count everything again")
    write_atomically(counts(parser.parse_args().all).encode(), counted.FILE)
