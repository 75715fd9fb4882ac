"""Base classes of the model tests. A family's test file names its networks; the tests come from here."""

import fnmatch
import importlib

import pytest
import torch

import zoo
from protocol import CHECKS
from zoo import counted


class FamilyTester:
    """Whole protocol for the small networks of a family, construction and counts for all.

    Attributes:
        family: Name of the family.
        small: Registered names that run the whole protocol.
        counts: Name to exact number of learnable parameters; every name of the family is built on the meta device, and
            those listed here are counted.
        exceptions: (shell pattern over names, check) to the reason why this check does not apply.
        without_gradient: Shell pattern over names to shell patterns of parameters that get no gradient, the reason in
            a comment.
    """

    family: str
    small: tuple[str, ...]
    counts: dict[str, int] = {}
    exceptions: dict[tuple[str, str], str] = {}
    without_gradient: dict[str, tuple[str, ...]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "check" in metafunc.fixturenames:
            metafunc.parametrize("check", CHECKS)
            metafunc.parametrize("name", self.small)

    def test_protocol(self, name: str, check: str) -> None:
        for (pattern, excused), reason in self.exceptions.items():
            if check == excused and fnmatch.fnmatch(name, pattern):
                pytest.skip(reason)
        patterns = [p for names, ps in self.without_gradient.items() if fnmatch.fnmatch(name, names) for p in ps]
        CHECKS[check](name, **({"without_gradient": tuple(patterns)} if check == "backward" else {}))

    def test_every_entry_is_built_and_counted(self) -> None:
        names = [name for name in zoo.list_models() if zoo.registry.family_of(name) == self.family]
        assert set(self.small) | set(self.counts) <= set(names)
        wrong = {}
        for name in names:
            with torch.device("meta"):
                model = zoo.create_model(name)
            found = sum(p.numel() for p in model.parameters())
            assert found > 0
            if found != self.counts.get(name, found):
                wrong[name] = (found, self.counts[name])
            if (known := counted.network(name)) and (known["params"], known["family"]) != (found, self.family):
                wrong[name] = (found, known["params"], "run python scripts/count_networks.py --all")
        assert not wrong, f"name: (found, expected) {wrong}"


def family_testers() -> dict[str, type[FamilyTester]]:
    """The tester of each family, from its test file ``test_<family>.py``."""
    return {family: importlib.import_module(f"test_{family}").TestFamily for family in zoo.models.FAMILIES}
