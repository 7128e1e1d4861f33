"""GIFs by their blocks: a palette that lacks a byte has other colours."""

from io import BytesIO

import pytest
from PIL import Image

from rasterloom.recipe.fetch import Fetch
from rasterloom.schema import ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.images import gif
from rasterloom.sources.images.decode import decode_image

HEADER = 13


def drawn(**options: object) -> bytes:
    image = Image.effect_noise((64, 48), 90).convert("RGB").quantize(64)
    buffer = BytesIO()
    image.save(buffer, "GIF", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        drawn(),
        drawn(comment=b"a" * 700),
        drawn(save_all=True, append_images=[Image.new("P", (64, 48))], duration=90, loop=0),
        drawn() + bytes(99),
    ],
)
def test_a_gif_has_blocks_alone(data: bytes) -> None:
    gif.check_blocks(data)
    assert decode_image(data, Fetch()).original_format == "gif"


@pytest.mark.parametrize("change", [-1, 1, 5])
def test_a_palette_that_is_shorter_or_longer_has_other_colours(change: int) -> None:
    data = drawn()
    moved = data[:HEADER] + (bytes(change) if change > 0 else b"") + data[HEADER + max(0, -change) :]
    with pytest.raises(FetchFailure, match="bytes of no block") as failed:
        decode_image(moved, Fetch())
    assert failed.value.error is ErrorClass.BROKEN_IMAGE


@pytest.mark.parametrize("length", range(0, 240, 7))
def test_a_head_that_is_cut_off_ends_in_a_class(length: int) -> None:
    with pytest.raises(FetchFailure):
        decode_image(b"GIF89a" + drawn()[6:length], Fetch())
