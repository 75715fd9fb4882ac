"""Where to compute."""

import torch

from .errors import ZooError


def choose_device(device: str = "") -> torch.device:
    """A device by its name; by default the GPU if there is one.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ...

    Raises:
        ZooError: If there is no such device here; the message names those there are.
    """
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.ones(1, device=place).item()  # a device can be known by name and not be there, or hold no values
    except Exception:  # each backend raises its own
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise ZooError(f"There is no device {device!r} here: choose {' or '.join(here)}.") from None
    return place
