"""Where to compute if nobody says."""

import torch


def choose_device(device: str = "") -> torch.device:
    """A device by its name; by default the GPU if there is one.

    Args:
        device: ``cpu``, ``cuda``, ...
    """
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
