"""Batches that shrink when a GPU runs out of memory."""

import logging
import sys
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")

logger = logging.getLogger(__name__)


class FittingBatches:
    """Sizes of one model's batches that a GPU was seen to hold.

    A size that did not fit is not tried again: not in the next call either, which for thousands of images
    would run out of memory thousands of times.
    """

    def __init__(self, what: str) -> None:
        """Begin with none.

        Args:
            what: is in the batches, for the log.
        """
        self._what = what
        self._sizes: dict[Hashable, int] = {}

    def over(
        self,
        work: Callable[[Sequence[Item]], Found],
        items: Sequence[Item],
        most: int,
        like: Hashable = None,
    ) -> list[Found]:
        """Process items in batches, halved when a GPU runs out of memory.

        Args:
            most: items of a batch.
            like: what decides how much memory an item takes, as its shape.

        Raises:
            torch.cuda.OutOfMemoryError: one item alone is too much; or ONNX Runtime's error that says so
        """
        size = asked = min(most, self._sizes.get(like, most))
        results: list[Found] = []
        start = 0
        while start < len(items):
            batch = items[start : start + size]
            try:
                results.append(work(batch))
            except Exception as error:
                if len(batch) == 1 or not _is_out_of_memory(error):
                    raise
            else:
                start += len(batch)
                continue
            # Here, not above: the exception's traceback would hold the tensors that are to be freed.
            size = len(batch) // 2
            self._sizes[like] = size
            if "torch" in sys.modules:
                sys.modules["torch"].cuda.empty_cache()
        if size < asked:
            logger.warning("the GPU's memory does not hold %d %s at once: %d", asked, self._what, size)
        return results


def _is_out_of_memory(error: Exception) -> bool:
    if type(error).__module__.startswith("onnxruntime"):  # which has no class of its own for it
        return "Failed to allocate memory" in str(error)
    torch = sys.modules.get("torch")  # who has not imported it cannot have raised its error
    return torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)
