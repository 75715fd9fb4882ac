"""Augmentation of whole batches on the device they live on; no per-image Python."""

import torch
from torch import Tensor

from ..errors import ZooError


def augment(
    images: Tensor,
    generator: torch.Generator,
    pad: int = 0,
    flip: bool = False,
    reflect: bool = False,
    rotate: float = 0.0,
    crop: int = 0,
) -> Tensor:
    """Random crop of the padded image, rotation and horizontal flip, in this order, drawn per image.

    Args:
        images: (batch, channels, height, width), any dtype.
        generator: Source of randomness, on the images' device.
        pad: Pixels added on every side before the crop.
        flip: Mirror each image with probability 1/2.
        reflect: Pad with the mirrored image (border not repeated), as the sparse and symmetry papers do, not with 0.
        rotate: Largest angle in degrees, either way; nearest neighbour, corners filled with 0 (LruNet's recipe).
        crop: Side of the result; 0 for the images' own size.

    Returns:
        A new tensor (batch, channels, crop or height, crop or width) of the same dtype.

    Raises:
        ZooError: If the crop is larger than the padded image, or more is mirrored than the image has.
    """
    batch, _, image_height, image_width = images.shape
    height, width = (crop, crop) if crop else (image_height, image_width)
    free_y, free_x = image_height + 2 * pad - height, image_width + 2 * pad - width
    if min(free_y, free_x) < 0:
        raise ZooError(f"augment.crop={crop} is larger than an image of {image_height}x{image_width} padded by {pad}.")
    if reflect and pad >= min(image_height, image_width):
        raise ZooError(f"augment.pad={pad} mirrors more than the {image_height}x{image_width} images have.")
    device = images.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (batch, 1), generator=generator, device=device)

    rows = torch.arange(height, device=device).expand(batch, -1)
    columns = torch.arange(width, device=device).expand(batch, -1)
    if flip:
        columns = torch.where(draw(2).bool(), width - 1 - columns, columns)
    rows, columns = rows[:, :, None], columns[:, None, :]
    inside = None
    if rotate:
        turn = torch.rand((batch, 1, 1), generator=generator, device=device) * 2 - 1
        rows, columns, inside = _rotated(rows, columns, height, width, torch.deg2rad(turn * rotate))
    if pad or free_y or free_x:
        rows, columns = rows + draw(free_y + 1)[:, :, None], columns + draw(free_x + 1)[:, :, None]
    if pad and reflect:
        rows, columns = _mirrored(rows - pad, image_height), _mirrored(columns - pad, image_width)
    elif pad:
        images = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    index = torch.arange(batch, device=device)[:, None, None]
    images = images.permute(0, 2, 3, 1)[index, rows, columns].permute(0, 3, 1, 2)
    return images if inside is None else images.masked_fill(~inside[:, None], 0)


def cut_out(images: Tensor, generator: torch.Generator, side: int) -> Tensor:
    """Set a square around a random centre to zero, clipped at the border (DeVries and Taylor 2017).

    Applied after normalisation, as in https://arxiv.org/abs/1708.04552, so that the square holds the channel's mean.

    Args:
        images: (batch, channels, height, width).
        generator: Source of randomness, on the images' device.
        side: Of the square in pixels.

    Returns:
        A new tensor of the same shape and dtype.
    """
    batch, _, height, width = images.shape
    device = images.device
    y = torch.randint(height, (batch, 1), generator=generator, device=device) - side // 2
    x = torch.randint(width, (batch, 1), generator=generator, device=device) - side // 2
    grid_y, grid_x = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows, in_columns = (grid_y >= y) & (grid_y < y + side), (grid_x >= x) & (grid_x < x + side)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)


def _mirrored(position: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - position.abs()).abs()


def _rotated(rows: Tensor, columns: Tensor, height: int, width: int, angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where each pixel comes from, (batch, height, width) each, and whether that is inside the crop."""
    y, x = rows - (height - 1) / 2, columns - (width - 1) / 2
    cosine, sine = torch.cos(angle), torch.sin(angle)
    from_y = (cosine * y + sine * x + (height - 1) / 2).round().long()
    from_x = (cosine * x - sine * y + (width - 1) / 2).round().long()
    inside = (from_y >= 0) & (from_y < height) & (from_x >= 0) & (from_x < width)
    return from_y.clamp(0, height - 1), from_x.clamp(0, width - 1), inside
