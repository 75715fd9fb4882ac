"""Class probabilities for single images."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from timm.data import ImageNetInfo, resolve_data_config
from torch import nn

from ..data.catalog import DATASETS
from ..data.images import evaluation_transform, load_image, naming
from ..errors import ZooError


@torch.inference_mode()
def predict(model: nn.Module, paths: Sequence[str | Path], top: int = 5) -> list[list[tuple[int, float]]]:
    """Classify image files.

    Args:
        model: Takes images (batch, channels, height, width), float32, and gives scores (batch, classes); its
            ``pretrained_cfg`` says how images are prepared. It is set to eval mode and stays on its device.
        paths: Image files of any mode and size.
        top: How many classes to return; all if the network has fewer.

    Returns:
        For each image (label, probability) pairs, likeliest first. Labels count from 0, and the probabilities of all
        classes add up to 1.

    Raises:
        DataError: If a file is missing, damaged or no image; nothing is returned then for the others either.
        ZooError: If ``top`` is below 1.
    """
    if top < 1:
        raise ZooError(f"top={top}: at least one class is needed.")
    config = resolve_data_config(model=model)
    transform = evaluation_transform(config)
    own = next(chain(model.parameters(), model.buffers()), torch.empty(0))
    model.eval()
    results = []
    for path in paths:  # one by one: without resizing to a common size some nets accept images of different sizes
        image = load_image(path, config["input_size"][0])
        tensor = naming(path, transform, image)[None]
        best = model(tensor.to(own.device)).softmax(1)[0].topk(min(top, model.num_classes))
        results.append(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
    return results


def class_names(dataset: str) -> list[str]:
    """Class names of a data set in label order; numbers where the zoo has no names."""
    info = DATASETS[dataset]
    if dataset == "imagenet":
        names = ImageNetInfo()
        return [names.index_to_description(i) for i in range(info.num_classes)]
    return list(info.classes) or [str(i) for i in range(info.num_classes)]


def label_names(model: nn.Module, dataset: str = "") -> list[str]:
    """Class names of a network in label order.

    Args:
        model: Its ``pretrained_cfg`` may hold ``label_names``.
        dataset: What it was trained on, whose names are taken if it holds none.

    Returns:
        As many names as the network has classes; numbers where neither gives as many.
    """
    own = list((getattr(model, "pretrained_cfg", None) or {}).get("label_names") or ())
    for names in (own, class_names(dataset) if dataset else []):
        if len(names) == model.num_classes:
            return names
    return [str(label) for label in range(model.num_classes)]
