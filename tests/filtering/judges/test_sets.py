"""Judges of sets: their reference, and what they are known by."""

import numpy as np
import pytest
from PIL import Image

from rasterloom.filtering.judges import sets


class Colours:
    """Embeddings of one's own: the mean colours of an image's halves."""

    def embed_images(self, images):
        return np.array([np.concatenate([i[:, :4].mean((0, 1)), i[:, 4:].mean((0, 1))]) for i in images])


@pytest.fixture
def judge(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "open_clip", lambda *_: Colours())
    monkeypatch.setattr(sets, "add_checkpoint", lambda digest, *_: digest.update(b"clip"))
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 200  # light above; turned by its EXIF, at the right
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    return lambda: sets.ClipDistanceJudge(str(tmp_path))


def test_a_reference_is_read_as_it_is_shown(judge):
    plain, turned = judge().reference()
    assert plain.tolist() == [100] * 6 and turned.tolist() == [0] * 3 + [200] * 3


def test_another_reference_draws_no_image_again(judge, tmp_path):
    before = judge().digest
    Image.new("RGB", (8, 8)).save(tmp_path / "more.png")
    assert judge().digest == before and len(judge().reference()) == 3
