"""Pictures of what a network says of images."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP, LINE = 10, 18  # pixels: around a cell, and from one line of text to the next


def draw_predictions(
    images: list[np.ndarray], captions: list[tuple[str, str, float]], scale: int = 5, title: str = ""
) -> Image.Image:
    """Draw images in rows, each with the network's guess and its probability, and what it is.

    Args:
        images: (height, width) or (height, width, 3) each, uint8; one size or several.
        captions: (true class, guessed class, probability from 0 to 1) of each.
        scale: Pixels per image pixel.
        title: Stands above them, and behind it how many are right and wrong.

    Returns:
        An RGB picture as wide as its longest line of text needs; right guesses are green, wrong ones red.
    """
    font, large = ImageFont.load_default(13), ImageFont.load_default(15)
    wrong = sum(true != guess for true, guess, _ in captions)
    title = f"{title}{', ' if title else ''}{len(captions) - wrong} right and {wrong} wrong shown"
    texts = [(f"guess: {guess}, {100 * p:.0f} %", f"label: {true}") for true, guess, p in captions]
    width = max(
        [scale * image.shape[1] for image in images] + [int(font.getlength(t)) + 1 for two in texts for t in two]
    )
    height = max(scale * image.shape[0] for image in images)
    columns = min(len(images), max(5, math.ceil(len(images) ** 0.5)))
    rows, across, down = -(-len(images) // columns), width + GAP, height + 2 * LINE + 2 * GAP
    top = GAP + LINE + GAP
    size = (GAP + max(columns * across, int(large.getlength(title)) + GAP), top + rows * down)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, "black", large)
    for k, (image, (true, guess, _), (said, label)) in enumerate(zip(images, captions, texts, strict=True)):
        x, y = GAP + k % columns * across, top + k // columns * down
        side = (scale * image.shape[1], scale * image.shape[0])
        sheet.paste(Image.fromarray(image).resize(side, Image.Resampling.NEAREST), (x, y))
        draw.text((x, y + height + 3), said, "green" if guess == true else "red", font)
        draw.text((x, y + height + 3 + LINE), label, "black", font)
    return sheet
