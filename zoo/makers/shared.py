"""Kernels as linear combinations of templates that several layers share.

Paper: P. Savarese and M. Maire, "Learning Implicitly Recurrent CNNs Through Parameter Sharing", ICLR 2019,
https://arxiv.org/abs/1902.09701: layer i has the kernel ``W_i = sum_t a_i[t] B_t``.
"""

import torch
from torch import Tensor, nn


class SharedWeight(nn.Module):
    """Makes a kernel from a layer's own coefficients (T,) and the templates of a bank.

    The bank is a submodule of every maker that uses it, so that it comes along with any part of a network: a stage, a
    traced graph, a replica on another device. A bank stands in a state dict once, see :class:`zoo.layers.TemplateBank`.

    Args:
        bank: Module with a parameter ``templates`` (T, *kernel), called with coefficients for a kernel.
    """

    def __init__(self, bank: nn.Module):
        super().__init__()
        self.bank = bank

    def forward(self, coefficients: Tensor) -> Tensor:
        """(T,) -> (*kernel)."""
        return self.bank(coefficients)

    @torch.no_grad()
    def right_inverse(self, kernel: Tensor) -> Tensor:
        """Coefficients (T,) of the combination closest to ``kernel`` (*kernel) in least squares.

        They are those of least norm if the templates are linearly dependent.
        """
        work = torch.promote_types(kernel.dtype, torch.float32)
        rows, target = self.bank.templates.flatten(1).to(work), kernel.flatten().to(work)
        gram = torch.linalg.pinv(rows @ rows.T, hermitian=True)
        found = gram @ (rows @ target)
        found = found + gram @ (rows @ (target - found @ rows))  # the normal equations square the condition number
        return found.to(kernel.dtype)


class ReusedWeight(nn.Module):
    """Makes a kernel, or any other tensor, as the one template of a bank: the layer learns nothing of its own.

    Args:
        bank: Module with a parameter ``templates`` (1, *shape).
    """

    def __init__(self, bank: nn.Module):
        super().__init__()
        self.bank = bank

    def forward(self, learned: Tensor) -> Tensor:
        """(0,), nothing -> (*shape)."""
        return self.bank.templates[0]

    def right_inverse(self, kernel: Tensor) -> Tensor:
        """(*shape) -> (0,)."""
        return kernel.new_zeros(0)
