"""Multiply-accumulates of a network, counted by running one image."""

import torch
from torch import nn


@torch.no_grad()
def count_macs(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Count multiply-accumulates of convolution and linear layers for one image, each use of a layer once.

    Args:
        model: The network, on any device, ``meta`` included; it is left as it was.
        input_size: (channels, height, width) of the image.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        if hasattr(layer, "macs"):  # a layer of ours that is no subclass of torch's
            total += layer.macs(output)
        else:
            total += layer.weight.numel() * (output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1)

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear) or hasattr(m, "macs")]
    handles = [layer.register_forward_hook(count) for layer in layers]
    training = {module: module.training for module in model.modules()}
    parameter = next(model.parameters())
    try:
        model.eval()(torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return total
