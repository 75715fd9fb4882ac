"""Data sets: facts about them, readers for the small ones, image folders for ImageNet."""

from .arrays import load_arrays
from .catalog import DATASETS, Dataset, get_dataset

__all__ = ["DATASETS", "Dataset", "get_dataset", "load_arrays"]
