"""What is learned gets the gradient of the kernels that are made of it, to the last factor, and nothing leaks."""

import pytest
import torch

import zoo
from zoo.layers.sharing import sharing_groups
from zoo.makers import is_made, learned_of, maker_of

NETWORKS = [
    ("sparse_wrn_16_1", {"sparsity": 0.5}),
    ("sparse_wrn_16_1", {"sparsity": 0.5, "sparse_unit": "kernel"}),
    ("sparse_wrn_16_1", {"sparsity": 0.5, "reparam": "tied"}),
    ("sparse_mlp_300_100", {"sparsity": 0.5, "in_chans": 3}),
    *(("symm_wrn_16_1", {"symm_type": kind}) for kind in ("tri", "wwt", "quar", "spa", "block4")),
    ("swrn_16_1_2", {}),
]


@pytest.mark.parametrize(("arch", "arguments"), NETWORKS, ids=lambda value: "-".join(map(str, value.values())) or "x"
                         if isinstance(value, dict) else value)  # fmt: skip
def test_gradients_are_those_of_the_kernels(arch, arguments):
    """Kernels are linear in what is learned, L: <gradient of L, v> = <gradient of the kernel, kernel made of v>."""
    torch.manual_seed(0)
    model = zoo.create_model(arch, **arguments).double().eval()
    plain = zoo.reparameterize(model)
    images = torch.randn(2, 3, *(2 * [28 if "mlp" in arch else 12]), dtype=torch.float64)
    factors = torch.randn(2, model.num_classes, dtype=torch.float64)  # a square would hide what is zero in the kernel
    for network in (model, plain):
        network.requires_grad_()
        (network(images) * factors).sum().backward()

    def kernel_gradient(name: str) -> torch.Tensor:
        return plain.get_submodule(name).weight.grad

    layers = {name: layer for name, layer in model.named_modules() if is_made(layer)}
    assert len(layers) > 1
    for name, layer in layers.items():
        learned = learned_of(layer)
        for _ in range(3):
            direction = torch.randn_like(learned)
            expected = (kernel_gradient(name) * maker_of(layer)(direction)).sum()
            torch.testing.assert_close((learned.grad * direction).sum(), expected, rtol=1e-8, atol=1e-8)
    groups = sharing_groups(model)
    assert bool(groups) == arch.startswith("swrn")
    for group in groups:
        templates = group.bank.templates
        direction = torch.randn_like(templates)
        made = {name: torch.tensordot(learned_of(layer).flatten(), direction, 1) for name, layer in group.convs.items()}
        expected = sum((kernel_gradient(name) * kernel).sum() for name, kernel in made.items())
        torch.testing.assert_close((templates.grad * direction).sum(), expected, rtol=1e-8, atol=1e-8)
