"""Fast decoding and scaling by libjpeg-turbo and OpenCV."""

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from rasterloom.recipe.fetch import Resize


def use_one_thread() -> None:
    """Keep OpenCV to one thread in this process: a machine runs a worker a core."""
    cv2.setNumThreads(1)


def fit(size: tuple[int, int], side: int, mode: Resize = "keep_ratio_largest") -> tuple[int, int]:
    """Return an image's size, its longest or shortest side bounded."""
    width, height = size
    bounded = min(size) if mode in ("keep_ratio", "center_crop") else max(size)
    scale = 1.0 if mode == "none" else min(1.0, side / bounded)
    return max(1, round(width * scale)), max(1, round(height * scale))


def square(image: Image.Image, side: int, mode: Resize) -> Image.Image:
    """Crop to a square, or add white, where the mode says so. An image that is smaller stays."""
    width, height = image.size
    if width == height or mode not in ("center_crop", "border"):
        return image
    if mode == "center_crop":
        left, top = (width - side) // 2, (height - side) // 2
        return image if min(image.size) < side else image.crop((left, top, left + side, top + side))
    if max(image.size) < side:
        return image
    framed = Image.new(image.mode, (side, side), "white")
    framed.paste(image, ((side - width) // 2, (side - height) // 2))
    return framed


def decode_jpeg(data: bytes, source: Image.Image, size: tuple[int, int]) -> Image.Image | None:
    """Decode a grey or colour JPEG to no less than ``size``. Returns None for another kind or a flawed file.

    The decoder itself scales by eighths, on each block's lower frequencies: less work, and no aliases.

    Args:
        source: the file opened by Pillow, which has read its header; its info goes along.
    """
    if source.format not in ("JPEG", "MPO") or source.mode not in ("L", "RGB"):
        return None
    kind = "GRAY" if source.mode == "L" else "RGB"
    width, height = size if size != source.size else (0, 0)  # 0: as it is
    try:
        pixels = simplejpeg.decode_jpeg(data, kind, min_height=height, min_width=width)
    except ValueError:
        return None
    image = Image.fromarray(pixels[..., 0] if kind == "GRAY" else pixels)
    image.info = dict(source.info)
    return image


def scale(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale an image down to ``size``: each pixel the average of the area that it covers.

    By less than half again, where averages of one pixel and a bit would blur, by cubic splines; with alpha by
    Lanczos. Against Lanczos of the whole image, photographs come out within 3 dB of averages alone.
    """
    if image.size == size:
        return image
    if image.mode not in ("L", "RGB"):
        scaled = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)  # knows alpha
    else:
        kind = cv2.INTER_CUBIC if max(image.size) < 1.5 * max(size) else cv2.INTER_AREA
        scaled = Image.fromarray(cv2.resize(np.asarray(image), size, interpolation=kind))
    scaled.info = dict(image.info)
    return scaled
