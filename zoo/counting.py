"""Four counts of a network's parameters; which one is meant decides every comparison of parameter-efficient nets."""

import torch
from torch import nn


@torch.no_grad()
def count_parameters(model: nn.Module, input_size: tuple[int, int, int]) -> dict[str, int]:
    """Count a network's parameters.

    Args:
        model: The network; it is left as it was.
        input_size: (channels, height, width) of an image, to see which layers run how often.

    Returns:
        ``stored``: entries of all learnable tensors in its state dict. ``unique``: the same with a tensor that appears
        under several names counted once. ``nonzero``: those of them that are not zero. ``inference``: weights and
        biases of the plain network that computes the same, where each use of a layer has a kernel of its own and batch
        norms are folded into the convolution before them.
    """
    names = dict(model.named_parameters(remove_duplicate=False))
    unique = list(model.parameters())
    return {
        "stored": sum(p.numel() for p in names.values()),
        "unique": sum(p.numel() for p in unique),
        "nonzero": sum(int(torch.count_nonzero(p)) for p in unique),
        "inference": count_uses(model, input_size)["inference"],
    }


@torch.no_grad()
def count_uses(model: nn.Module, input_size: tuple[int, int, int]) -> dict[str, int]:
    """Run one image through and count per use of a convolution or linear layer.

    Returns:
        ``inference``: kernel entries and one bias per output channel, over all uses; ``macs``: multiply-accumulates.
    """
    total = {"inference": 0, "macs": 0}

    def count(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if hasattr(layer, "use_cost"):  # a layer of ours that is no subclass of torch's
            weights, macs = layer.use_cost(output)
        else:
            kernel = layer.weight.numel()
            weights = kernel + layer.weight.shape[0]
            macs = kernel * (output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1)
        total["inference"] += weights
        total["macs"] += macs

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear) or hasattr(m, "use_cost")]
    handles = [layer.register_forward_hook(count) for layer in layers]
    training = model.training
    parameter = next(model.parameters())
    try:
        model.eval()(torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return total
