import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil

from rasterloom.filtering.scorers.clip_pixels import is_usual, pixels_on

CPU = torch.device("cpu")


def smooth(height: int, width: int) -> np.ndarray:
    """Waves, with hard edges."""
    y, x, c = np.ogrid[:height, :width, :3]
    waves = 127.5 + 90 * np.sin(x / (5 + c)) + 60 * np.cos(y / 7 + c)
    waves[height // 3 : height // 2, width // 4 :] = 255
    return np.clip(waves, 0, 255).astype(np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("make", [smooth, noise])
@pytest.mark.parametrize(
    "size", [(224, 224), (300, 517), (701, 400), (1024, 1023), (97, 150), (2000, 31), (5, 3), (1, 1)]
)
def test_pixels_are_those_of_pillow_and_transformers(make, size):
    """Within a level of 256, and that for one in 10,000 at most: sums that lie between two levels."""
    processor = CLIPImageProcessorPil()
    assert is_usual(processor)
    images = [make(*size)]
    expected = processor(images, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    found = pixels_on(CPU, processor, images)
    assert found.shape == expected.shape == (1, 3, 224, 224)
    assert found.dtype == torch.float32
    level = 1 / 255 / np.array(processor.image_std)[None, :, None, None]
    off = ((found - expected).abs().numpy() / level).round(3)
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-4


def test_images_of_several_sizes_are_one_batch_and_may_be_read_only():
    processor = CLIPImageProcessorPil()
    images = [smooth(90, 60), noise(224, 500), smooth(90, 60)]
    images[0].flags.writeable = False
    found = pixels_on(CPU, processor, images)
    assert found.shape == (3, 3, 224, 224)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], pixels_on(CPU, processor, images[1:2])[0])


@pytest.mark.parametrize(
    "options",
    [
        {"do_center_crop": False},
        {"resample": 2},
        {"size": {"height": 224, "width": 224}},
        {"size": {"shortest_edge": 200}},
        {"do_normalize": False},
        {"do_resize": False},
    ],
)
def test_other_ways_to_prepare_are_left_to_their_processor(options):
    assert not is_usual(CLIPImageProcessorPil(**options))
