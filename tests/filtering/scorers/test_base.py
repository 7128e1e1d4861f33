import threading

import numpy as np
import pytest

from rasterloom.filtering.scorers.base import Batch, digest_of, packaged


def test_what_scorers_share_is_computed_once_a_batch() -> None:
    calls = []
    batch, other = Batch([], []), Batch([], [])
    for asked in (batch, batch, other):
        assert asked.once("x", lambda: calls.append(1) or len(calls)) == (1 if asked is batch else 2)


def test_images_are_worked_on_by_threads_where_there_are_several() -> None:
    images = [np.full((1, 1, 3), number, np.uint8) for number in range(4)]
    meet = threading.Barrier(2, timeout=30)  # which one thread alone never passes

    def work(image: np.ndarray) -> int:
        meet.wait()
        return int(image[0, 0, 0])

    assert Batch(images, [None] * 4, threads=2).each(work) == [0, 1, 2, 3]
    assert (
        Batch(images, [None] * 4).each(lambda image: threading.current_thread())
        == [threading.main_thread()] * 4
    )


def test_a_package_that_is_not_there_is_named_with_its_extra() -> None:
    with pytest.raises(ValueError, match=r"the score nsfw needs .*pip install 'rasterloom\[nsfw\]'"):
        packaged("nsfw", "nsfw", "no_such_package", "x.onnx")
    with pytest.raises(ValueError, match=r"finds no .*x\.onnx: pip install -U"):
        packaged("nsfw", "nsfw", "numpy", "x.onnx")


def test_a_digest_follows_version_and_bytes(tmp_path: object) -> None:
    file = packaged("x", "x", "numpy", "__init__.py")
    assert digest_of("numpy", file) != digest_of("pytest", file) != digest_of("pytest", [])
