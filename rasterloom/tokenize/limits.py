"""Crop seeds, and limits beyond which a sample is a failure.

Each rule is a field of the recipe's `tokenize`; docs/tokens.md says which of them the reference has.
"""

from rasterloom.recipe.tokenize import Tokenize
from rasterloom.tokenize.buckets import Size
from rasterloom.tokenize.crop import CropPlan, seed_of
from rasterloom.utils.random_streams import stream_number


def crop_seed(key: str, config: Tokenize, image: int = 0) -> int | None:
    """Return the seed of an image's crop, for ``crop.plan_crop``.

    Args:
        key: of the sample.
        config: of which ``crop``, ``shared_crop`` and ``seed`` are read.
        image: number of the image in the sample, from 0. It counts only where crops are not shared; the
            first image's crop is the same either way.
    """
    if config.crop == "center":
        return None
    return seed_of(key if config.shared_crop or image == 0 else f"{key}#{image}", config.seed)


def image_fault(size: Size, plan: CropPlan, config: Tokenize) -> str | None:
    """Return why an image of ``size`` must not be cut as planned. None if it may.

    ``config.min_side`` bounds how far it is enlarged, ``config.max_cut`` the share of its area that is lost.
    """
    width, height = size
    cover = max(plan.bucket[0] / width, plan.bucket[1] / height)
    if cover * config.min_side > 1:
        return (
            f"{width} x {height} pixels are too few: the bucket {plan.bucket[0]} x {plan.bucket[1]} would "
            f"enlarge them {cover:.1f} times (tokenize.min_side {config.min_side:g} allows "
            f"{1 / config.min_side:.3g})"
        )
    cut = cut_share(plan)
    if cut > config.max_cut:
        return (
            f"the crop to {plan.bucket[0]} x {plan.bucket[1]} would cut away {cut:.0%} of {width} x {height} "
            f"pixels (tokenize.max_cut is {config.max_cut:g})"
        )
    return None


def cut_share(plan: CropPlan) -> float:
    """Return the share, 0 to 1, of an image's area cut off."""
    (width, height), _ = plan.resizes[-1]
    return 1 - plan.bucket[0] * plan.bucket[1] / (width * height)


def length_fault(n_tokens: int, config: Tokenize) -> str | None:
    """Return why a sample has too many tokens, else None. Nothing is ever cut off."""
    if config.max_tokens is None or n_tokens <= config.max_tokens:
        return None
    return f"length: {n_tokens} tokens, more than tokenize.max_tokens {config.max_tokens}"


def names_size(key: str, config: Tokenize) -> bool:
    """Say whether the prompt of a sample names the image's size: so it is with ``config.size_in_prompt``
    of them (9 of 10 in Lumina-mGPT 2.0), always the same ones for a seed."""
    return stream_number("size", seed=config.seed, key=key) < config.size_in_prompt * 2**64
