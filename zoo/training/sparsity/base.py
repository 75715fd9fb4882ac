"""What all sparsity methods share: the calls a training loop makes, options, penalty, state.

Paper: H. Mostafa and X. Wang, "Parameter efficient training of deep convolutional neural networks by dynamic sparse
reparameterization", ICML 2019, https://arxiv.org/abs/1902.05967.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import ZooError
from ...makers.base import made_tensors, maker_of
from ...makers.masked import MaskedWeight
from ...makers.tied import TiedWeight
from .options import Option, flag, number, read_options
from .penalties import penalty


def layers_with(model: nn.Module, *makers: type[nn.Module]) -> dict[str, nn.Module]:
    """The layers whose weights are made by one of these makers, by name, in the network's order.

    Raises:
        ZooError: If one of them makes another tensor than a layer's ``weight``.
    """
    found = {}
    for name, layer, tensor in made_tensors(model):
        if isinstance(maker := maker_of(layer, tensor), makers):
            if tensor != "weight":
                raise ZooError(
                    f"{name}.{tensor} is made by {type(maker).__name__}: methods treat tensors called 'weight' only."
                )
            found[name] = layer
    return found


class Method:
    """A way to treat sparse weights during training; this one leaves them alone.

    A loop counts optimizer steps from 0 across epochs and calls, in this order: :meth:`penalty` with the loss,
    :meth:`before_step` after backward (gradients unscaled), :meth:`after_step` after the optimizer's step, and
    :meth:`after_epoch` after the last step of an epoch, before it evaluates or saves. Several processes stay equal if
    their generators start equal.

    Args:
        model: The network, not wrapped.
        options: Plain values, by the names in :attr:`options`.
        generator: Source of all randomness, on the CPU; its state is part of :meth:`state_dict`.

    Raises:
        ZooError: If an option has no meaning or the network has no weights this method is for.

    Attributes:
        name: Of the method.
        options: Its options.
        layers: The layers it treats, by name.
    """

    name: ClassVar[str] = "static"
    options: ClassVar[dict[str, Option]] = {"l1": Option(0.0, number(0)), "group_lasso": Option(False, flag)}
    makers: ClassVar[tuple[type[nn.Module], ...]] = (MaskedWeight,)

    def __init__(self, model: nn.Module, options: Mapping[str, Any], generator: torch.Generator):
        self.values = read_options(self.name, options, self.options)
        if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
            raise ZooError(f"Method {self.name!r} needs a torch.Generator on the CPU, not {generator!r}.")
        self.generator = generator
        self.layers = layers_with(model, *self.makers)
        if not self.layers:
            self._check_no_layers(model)

    def _check_no_layers(self, model: nn.Module) -> None:
        kind = "tied" if self.makers == (TiedWeight,) else "sparse"
        raise ZooError(
            f"Method {self.name!r} is for {kind} weights and {type(model).__name__} has none: give its layers some "
            f"with zoo.layers.make_{kind}, before its optimizer is made."
        )

    def penalty(self) -> Tensor | None:
        """The term to add to the loss (scalar, differentiable), or None."""
        if not self.values["l1"]:
            return None
        return self.values["l1"] * penalty(self.layers.values(), self.values["group_lasso"])

    def moves(self, epoch: int, iteration: int) -> bool:
        """Whether weights may move with this step, so that it differs from others (the loop may capture those)."""
        return False

    def before_step(self, epoch: int, iteration: int) -> None:
        """Change gradients, between backward and the optimizer's step."""

    def after_step(self, epoch: int, iteration: int) -> dict[str, Any] | None:
        """Move weights; a record of plain values if any reallocation was due, else None."""
        return None

    def after_epoch(self, epoch: int) -> dict[str, Any] | None:
        """Prune after an epoch; a record of plain values if that was due, else None."""
        return None

    def active(self) -> dict[str, int]:
        """Number of weights that are on, by layer."""
        return {name: maker_of(layer).active for name, layer in self.layers.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that decides the further course and is not in the network's state dict (which has the masks)."""
        return {"method": self.name, "generator": self.generator.get_state(), **self._state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ZooError: If it is the state of another method.
        """
        if state.get("method") != self.name:
            raise ZooError(f"The saved state is that of method {state.get('method')!r}, not {self.name!r}.")
        missing = self.state_dict().keys() ^ state.keys()
        if missing:
            raise ZooError(
                f"The saved state of method {self.name!r} does not fit: {', '.join(sorted(missing))} differ."
            )
        self.generator.set_state(state["generator"].cpu())
        self._load(state)

    def _state(self) -> dict[str, Any]:
        return {}

    def _load(self, state: Mapping[str, Any]) -> None:
        pass


class Dense(Method):
    """No sparse weights needed; those there are stay as they are."""

    name = "dense"
    makers = (MaskedWeight, TiedWeight)

    def _check_no_layers(self, model: nn.Module) -> None:
        if self.values["l1"]:
            raise ZooError("Option l1 concerns sparse and tied weights only and this network has none: leave it out.")


class Tied(Method):
    """Tied weights, with the gradient of each bank divided by the mean number of uses of its entries if asked for.

    The published code has this option and divides after the step, which has no effect; here it is before.
    """

    name = "tied"
    options = Method.options | {"rescale": Option(False, flag)}
    makers = (TiedWeight,)

    def before_step(self, epoch: int, iteration: int) -> None:
        """Divide the banks' gradients."""
        if not self.values["rescale"]:
            return
        for layer in self.layers.values():
            gradient = layer.parametrizations.weight.original.grad
            if gradient is not None:
                gradient.div_(maker_of(layer).repeats)

    def active(self) -> dict[str, int]:
        """Number of entries of the banks, by layer."""
        return {name: layer.parametrizations.weight.original.numel() for name, layer in self.layers.items()}
