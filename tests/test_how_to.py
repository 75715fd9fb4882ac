"""The worked example of docs/add_a_family.md, as it stands on the page."""

import re
import sys
import types

import pytest
import torch

import zoo
from conftest import ROOT
from protocol import CHECKS, close, images, make


@pytest.fixture(scope="module")
def page():
    """Python blocks of the page by file name, run as modules."""
    text = (ROOT / "docs" / "add_a_family.md").read_text()
    blocks = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL))
    names = {}
    for file in ("zoo/makers/zero_sum.py", "zoo/models/zero_sum_wrn.py"):
        name = file.removesuffix(".py").replace("/", ".")
        module = types.ModuleType(name)
        module.__dict__.update(names)
        sys.modules[name] = module
        exec(compile(blocks[file], file, "exec"), module.__dict__)
        names = {k: v for k, v in vars(module).items() if not k.startswith("__")}
    return blocks, names


def test_the_example_is_a_family(page):
    blocks, names = page
    count = int(re.search(r'"zero_sum_wrn_16_1": ([\d_]+)', blocks["tests/test_zero_sum.py"])[1].replace("_", ""))
    model = make("zero_sum_wrn_16_1")
    assert sum(p.numel() for p in model.parameters()) == count
    assert all(float(c.weight.detach().sum((2, 3)).abs().max()) < 1e-5 for c in model.block_convs().values())
    kernel = torch.randn(4, 3, 3, 3)
    maker = names["ZeroSumWeight"](3)
    made = maker(maker.right_inverse(kernel))
    close(maker(maker.right_inverse(made)), made, 1e-6)


def test_the_example_collapses(page):
    model = make("zero_sum_wrn_16_1").double()
    x = images(model).double()
    plain = zoo.reparameterize(model, batch_norm="fold")
    close(plain(x), model(x), 1e-10)
    assert not any("parametrizations" in key for key in plain.state_dict())


@pytest.mark.parametrize("check", ["forward", "backward", "default_cfg", "features", "fx", "copies"])
def test_the_example_passes_the_protocol(page, check):
    CHECKS[check]("zero_sum_wrn_16_1")
