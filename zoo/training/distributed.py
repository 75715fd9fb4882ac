"""The processes that share a run, where they were before evaluation shared them too; see :mod:`zoo.distributed`."""

from ..distributed import Processes as Processes
