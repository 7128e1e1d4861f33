import gc
import logging
import weakref
from collections.abc import Sequence

import pytest
import torch

from rasterloom.utils.oom_batches import FittingBatches


def in_batches(work, items, most):
    return FittingBatches("images").over(work, items, most)


def limited(limit: int, sizes: list[int]) -> object:
    def work(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return [item * 10 for item in items]

    return work


@pytest.mark.parametrize(("limit", "size"), [(100, 4), (4, 4), (3, 8), (1, 64)])
def test_everything_is_done_once_and_in_order(limit: int, size: int) -> None:
    sizes: list[int] = []
    parts = in_batches(limited(limit, sizes), range(21), size)
    assert [value for part in parts for value in part] == [item * 10 for item in range(21)]
    assert max(len(part) for part in parts) <= limit
    assert sum(size > limit for size in sizes) <= 6  # it does not try again what did not fit


def test_a_size_that_did_not_fit_is_not_tried_by_the_next_call_and_said_once(caplog) -> None:
    batches, sizes = FittingBatches("images"), []
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            parts = batches.over(limited(10, sizes), range(40), 32)
            assert [item for part in parts for item in part] == [10 * i for i in range(40)]
        batches.over(limited(100, sizes), range(3), 32)  # fewer than fit leave the size as it is
        batches.over(limited(100, sizes), range(40), 32)
    assert sizes == [32, 16, *([8] * 5 * 4), 3, *([8] * 5)]
    (told,) = caplog.records
    assert told.getMessage() == "the GPU's memory does not hold 32 images at once: 8"


def test_what_takes_less_memory_keeps_its_own_size() -> None:
    batches, sizes = FittingBatches("images"), []
    batches.over(limited(4, sizes), range(8), 8, like=1024)
    batches.over(limited(8, sizes), range(8), 8, like=512)
    batches.over(limited(4, sizes), range(8), 8, like=1024)
    assert sizes == [8, 4, 4, 8, 4, 4]


def test_one_item_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError):
        in_batches(limited(0, []), range(3), 4)


def test_other_errors_are_not_tried_again() -> None:
    sizes = []

    def work(items: Sequence[int]) -> None:
        sizes.append(len(items))
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        in_batches(work, range(8), 8)
    assert sizes == [8]


def test_what_filled_the_memory_is_let_go_before_the_next_try() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work(items: Sequence[int]) -> int:
        assert all(reference() is None for reference in held)
        tensor = torch.zeros(len(items))
        held.append(weakref.ref(tensor))
        if len(items) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return len(items)

    gc.disable()
    try:
        assert in_batches(work, range(8), 8) == [2, 2, 2, 2]
    finally:
        gc.enable()


def test_onnx_runtime_says_in_words_that_the_memory_is_full() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

    words = "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9"

    def work(items: Sequence[int]) -> int:
        if len(items) > 1:
            raise RuntimeException(words)
        return len(items)

    assert in_batches(work, range(3), 4) == [1, 1, 1]

    def broken(items: Sequence[int]) -> int:
        raise RuntimeException("Non-zero status code returned")

    with pytest.raises(RuntimeException, match="Non-zero"):
        in_batches(broken, range(3), 4)
