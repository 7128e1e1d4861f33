import gc
import weakref
from collections.abc import Sequence

import pytest
import torch

from rasterloom.utils.oom_batches import in_halves


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
    parts = in_halves(limited(limit, sizes), range(21), size)
    assert [value for part in parts for value in part] == [item * 10 for item in range(21)]
    assert max(len(part) for part in parts) <= limit
    assert sum(size > limit for size in sizes) <= 6  # it does not try again what did not fit


def test_one_item_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.cuda.OutOfMemoryError):
        in_halves(limited(0, []), range(3), 4)


def test_other_errors_are_not_tried_again() -> None:
    sizes = []

    def work(items: Sequence[int]) -> None:
        sizes.append(len(items))
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        in_halves(work, range(8), 8)
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
        assert in_halves(work, range(8), 8) == [2, 2, 2, 2]
    finally:
        gc.enable()


def test_onnx_runtime_says_in_words_that_the_memory_is_full() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

    words = "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9"

    def work(items: Sequence[int]) -> int:
        if len(items) > 1:
            raise RuntimeException(words)
        return len(items)

    assert in_halves(work, range(3), 4) == [1, 1, 1]

    def broken(items: Sequence[int]) -> int:
        raise RuntimeException("Non-zero status code returned")

    with pytest.raises(RuntimeException, match="Non-zero"):
        in_halves(broken, range(3), 4)
