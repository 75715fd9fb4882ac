"""Pictures of what a network says of images."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def draw_predictions(images: list[np.ndarray], captions: list[tuple[str, str, float]], scale: int = 5) -> Image.Image:
    """Draw grey images in rows of five, each with its class, the guess and the guess's probability.

    Args:
        images: (height, width), uint8.
        captions: (true class, guessed class, probability) of each.
        scale: Pixels per image pixel.

    Returns:
        An RGB picture; right guesses are green, wrong ones red.
    """
    side, text_height, columns = images[0].shape[0] * scale, 40, 5
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + 10) + 10, rows * (side + text_height + 10) + 10), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for k, (image, (true, guess, probability)) in enumerate(zip(images, captions, strict=True)):
        x, y = 10 + k % columns * (side + 10), 10 + k // columns * (side + text_height + 10)
        sheet.paste(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST), (x, y))
        draw.text((x, y + side + 3), f"{guess} {100 * probability:.0f} %", "green" if guess == true else "red", font)
        draw.text((x, y + side + 20), f"is {true}", "black", font)
    return sheet
