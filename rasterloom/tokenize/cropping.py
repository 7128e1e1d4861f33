"""Crops of stored images, as they are encoded."""

from PIL import Image, ImageOps

from rasterloom.recipe.tokenize import Tokenize
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.crop import CropPlan, apply_crop, plan_crop
from rasterloom.tokenize.limits import crop_seed


def crop_as_coded(
    image: Image.Image, key: str | None, number: int, config: Tokenize, target: int
) -> tuple[Image.Image, CropPlan]:
    """Return an image's crop, as tokenizing makes it, and its plan.

    Args:
        key: of its sample, which decides where the crop lies; None cuts it in the middle.
        number: of the image in the sample, from 0.
        config: of which ``exif``, ``crop``, ``shared_crop`` and ``seed`` are read.

    Raises:
        ValueError: as ``crop.plan_crop`` and ``crop.apply_crop``.
    """
    turned = upright(image, config)
    seed = None if key is None else crop_seed(key, config, number)
    plan = plan_crop(turned.size, bucket_sizes(target), seed=seed)
    return apply_crop(turned, plan), plan


def crop_as_planned(image: Image.Image, plan: CropPlan, config: Tokenize) -> Image.Image:
    """Return the crop of an image whose plan is known. Images of one sample may share one.

    Raises:
        ValueError: as ``crop.apply_crop``.
    """
    return apply_crop(upright(image, config), plan)


def upright(image: Image.Image, config: Tokenize) -> Image.Image:
    """Return the image turned by its EXIF orientation, unless ``config.exif`` is false."""
    return ImageOps.exif_transpose(image) if config.exif else image
