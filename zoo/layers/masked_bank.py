"""A template bank whose templates are masked, so that what several layers share is sparse as well."""

from typing import Any

import torch
from torch import Tensor, nn

from ..makers.base import make_weight
from ..makers.masked import MaskedWeight
from .sharing import TemplateBank


class Kernels(nn.Module):
    """Holds ``weight``, for a maker to make it."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)


class MaskedTemplateBank(TemplateBank):
    """Templates times a mask, which moves in training as any other mask does.

    What is learned is ``kernels.parametrizations.weight.original``, (T, weights of a template).

    Args:
        bank: The bank whose templates it takes over.
        maker: The mask, of shape (T, weights of a template).
    """

    def __init__(self, bank: TemplateBank, maker: MaskedWeight):
        nn.Module.__init__(self)
        self.in_planes, self.out_planes, self.kernel_size = bank.in_planes, bank.out_planes, bank.kernel_size
        self.shape = tuple(bank.templates.shape)
        self._last_load: Any = None
        kernels = Kernels(bank.templates.detach().flatten(1).clone()).requires_grad_(bank.templates.requires_grad)
        self.kernels = make_weight(kernels, maker)

    @property
    def templates(self) -> Tensor:
        """(T, *kernel)."""
        return self.kernels.weight.view(self.shape)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Kaiming normal, fan-in, ReLU gain, for every template."""
        learned = self.kernels.parametrizations.weight.original
        learned.normal_(std=(2 / (self.templates[0, 0].numel())) ** 0.5)

    def state_dict(self, *args, destination: dict | None = None, prefix: str = "", keep_vars: bool = False) -> dict:
        """As ``nn.Module``'s; a bank that stands in ``destination`` already is not written a second time."""
        if destination is not None:
            own = self.kernels.parametrizations.weight.original.untyped_storage()._cdata
            if any(isinstance(t, Tensor) and t.untyped_storage()._cdata == own for t in destination.values()):
                return destination
        return super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)

    def _save_to_state_dict(self, *args) -> None:
        nn.Module._save_to_state_dict(self, *args)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, metadata: dict, strict: bool, missing: list, *rest):
        # load_state_dict comes here once for each name, always with its one list of missing keys, and then goes on to
        # the parts of the bank with what stands in state_dict under this name.
        mine = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        again = self._last_load is not None and self._last_load[0] is missing
        first, found = self._last_load[1:] if again else (prefix, bool(mine))
        own = self.state_dict() if again and found else {}  # what was loaded under the first name
        if own and not mine:
            state_dict |= {prefix + key: value for key, value in own.items()}
        elif again and mine and not found:
            missing[:] = [key for key in missing if not key.startswith(first)]
            first, found = prefix, True
        elif any(key in mine and not torch.equal(mine[key].to(value), value) for key, value in own.items()):
            rest[-1].append(f"{prefix} must repeat {first}, the same bank, but differs from it.")
        self._last_load = missing, first, found
        nn.Module._load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, *rest)

    def _apply(self, *args, **kwargs) -> nn.Module:
        return nn.Module._apply(self, *args, **kwargs)
