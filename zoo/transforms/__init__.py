"""Any convolutional network, with kernels that are made from fewer or more tensors than they have."""

from . import registered as registered
from .kinds import Kind, kinds
from .report import Report, Size
from .target import Change, Target
from .transform import plan, transform

__all__ = ["Change", "Kind", "Report", "Size", "Target", "kinds", "plan", "transform"]
