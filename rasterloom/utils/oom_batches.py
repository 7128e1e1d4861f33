"""Batches that shrink when a GPU runs out of memory."""

import logging
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")

logger = logging.getLogger(__name__)


def in_halves(work: Callable[[Sequence[Item]], Found], items: Sequence[Item], size: int) -> list[Found]:
    """Process items in batches, halved when a GPU runs out of memory.

    Raises:
        torch.cuda.OutOfMemoryError: one item alone is too much; or ONNX Runtime's error that says so
    """
    results: list[Found] = []
    start = 0
    while start < len(items):
        size = min(size, len(items) - start)
        try:
            results.append(work(items[start : start + size]))
        except Exception as error:
            if size == 1 or not _is_out_of_memory(error):
                raise
        else:
            start += size
            continue
        # Here, not above: the exception's traceback would hold the tensors that are to be freed.
        size //= 2
        logger.warning("the GPU is out of memory: going on with batches of %d", size)
        if "torch" in sys.modules:
            sys.modules["torch"].cuda.empty_cache()
    return results


def _is_out_of_memory(error: Exception) -> bool:
    if type(error).__module__.startswith("onnxruntime"):  # which has no class of its own for it
        return "Failed to allocate memory" in str(error)
    torch = sys.modules.get("torch")  # who has not imported it cannot have raised its error
    return torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)
