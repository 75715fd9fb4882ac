"""Augmentation of whole batches of uint8 images, on the device they live on; no per-image Python."""

import torch
from torch import Tensor


def augment(images: Tensor, generator: torch.Generator, pad: int = 0, flip: bool = False, cutout: int = 0) -> Tensor:
    """Random shift by zero-padded crop, horizontal flip and cutout, drawn per image.

    Args:
        images: (batch, channels, height, width), any dtype.
        generator: Source of randomness, on the images' device.
        pad: Largest shift in pixels (crop of the original size from the image padded by this much).
        flip: Mirror each image with probability 1/2.
        cutout: Side in pixels of a square set to zero around a random centre, clipped at the border
            (DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552); 0 for none.

    Returns:
        A new tensor of the same shape and dtype.
    """
    batch, _, height, width = images.shape
    device = images.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (batch, 1), generator=generator, device=device)

    rows = torch.arange(height, device=device).expand(batch, -1)
    columns = torch.arange(width, device=device).expand(batch, -1)
    if flip:
        columns = torch.where(draw(2).bool(), width - 1 - columns, columns)
    if pad:
        rows, columns = rows + draw(2 * pad + 1), columns + draw(2 * pad + 1)  # positions in the padded image
        images = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    index = torch.arange(batch, device=device)[:, None, None]
    images = images.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if cutout:
        y, x = draw(height), draw(width)
        grid_y, grid_x = torch.arange(height, device=device), torch.arange(width, device=device)
        in_rows = (grid_y >= y - cutout // 2) & (grid_y < y - cutout // 2 + cutout)
        in_columns = (grid_x >= x - cutout // 2) & (grid_x < x - cutout // 2 + cutout)
        images = images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)
    return images
