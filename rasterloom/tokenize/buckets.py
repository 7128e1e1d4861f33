"""Aspect-ratio buckets: the crop sizes of one target resolution."""

GRID_UNIT = 32  # pixels; every side of a bucket is a multiple, in all profiles
MAX_RATIO = 4.0  # of the long side to the short side

Size = tuple[int, int]  # width, height in pixels


def bucket_sizes(target: int) -> list[Size]:
    """Return (width, height) in pixels of a target's buckets, widest first.

    A bucket has at most ``target * target`` pixels, sides that are multiples of 32, and an aspect ratio
    of at most 4. The list is a staircase from wide to tall that holds each column it passes through, in
    the order of Lumina-mGPT's ``generate_crop_size_list``; no two buckets have the same ratio for the
    targets 256 to 1024.

    Raises:
        ValueError: ``target`` is not a positive multiple of 32.
    """
    if target < GRID_UNIT or target % GRID_UNIT:
        raise ValueError(f"a target is a multiple of {GRID_UNIT} pixels; {target} is not")
    units = (target // GRID_UNIT) ** 2
    sizes: list[Size] = []
    wide, high = units, 1
    while wide > 0:
        if max(wide, high) / min(wide, high) <= MAX_RATIO:
            sizes.append((wide * GRID_UNIT, high * GRID_UNIT))
        if wide * (high + 1) <= units:
            high += 1
        else:
            wide -= 1
    return sizes


def choose_bucket(size: Size, buckets: list[Size]) -> Size:
    """Return the bucket that crops least of an image of ``size``.

    The share that remains after scaling to cover bucket (cw, ch) and cropping is
    ``min(cw/w, ch/h) / max(cw/w, ch/h)``. Equal shares go to the largest (cw, ch), as in the reference.

    Raises:
        ValueError: a side is below 1, or there are no buckets.
    """
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"an image of {width} x {height} pixels cannot be cropped")
    if not buckets:
        raise ValueError("no buckets to choose from")

    def remains(bucket: Size) -> float:
        across, down = bucket[0] / width, bucket[1] / height
        return min(across, down) / max(across, down)

    return max(buckets, key=lambda bucket: (remains(bucket), bucket))
