"""Class probabilities for single images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from timm.data import ImageNetInfo, resolve_data_config
from torch import nn

from ..data.catalog import DATASETS
from ..data.images import load_image, to_input


@torch.inference_mode()
def predict(model: nn.Module, paths: Sequence[str | Path], top: int = 5) -> list[list[tuple[int, float]]]:
    """Classify image files.

    Args:
        model: The network; its ``pretrained_cfg`` says how images are prepared.
        paths: Image files of any mode and size.
        top: How many classes to return.

    Returns:
        For each image (label, probability) pairs, likeliest first.

    Raises:
        DataError: If a file is missing or no image.
    """
    config = resolve_data_config(model=model)
    images = [to_input(load_image(path, config["input_size"][0]), config) for path in paths]
    model.eval()
    results = []
    for image in images:  # one by one: without resizing to a common size some nets accept images of different sizes
        best = model(image[None]).softmax(1)[0].topk(min(top, model.num_classes))
        results.append(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
    return results


def class_names(dataset: str) -> list[str]:
    """Class names in label order; numbers where the zoo has no names."""
    info = DATASETS[dataset]
    if dataset == "imagenet":
        names = ImageNetInfo()
        return [names.index_to_description(i) for i in range(info.num_classes)]
    return list(info.classes) or [str(i) for i in range(info.num_classes)]
