"""Base classes of the model tests. A family's test file names its networks; the tests come from here."""

import pytest
import torch

import zoo
from protocol import CHECKS


class FamilyTester:
    """Whole protocol for the small networks of a family, construction and counts for all.

    Attributes:
        family: Name of the family.
        small: Registered names that run the whole protocol.
        counts: Name to exact number of learnable parameters; every name of the family is built on the meta device, and
            those listed here are counted.
        exceptions: (name, check) to the reason why this check does not apply.
        without_gradient: Name to shell patterns of parameters that get no gradient, the reason in a comment.
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
        if (name, check) in self.exceptions:
            pytest.skip(self.exceptions[name, check])
        extra = {"without_gradient": self.without_gradient.get(name, ())} if check == "backward" else {}
        CHECKS[check](name, **extra)

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
        assert not wrong, f"name: (found, expected) {wrong}"
