"""Copies in host memory of what a checkpoint's files hold.

They are written while training goes on. The stager of torch.distributed.checkpoint makes them; its memory is
pinned where there is a GPU, and serves one checkpoint after the other.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rasterloom.utils.free_memory import free_memory

_SHARE_OF_FREE = 0.7  # of the machine's memory that is free, for the copies of all its ranks
logger = logging.getLogger(__name__)


class Snapshot:
    """Files of one rank that are to be written. It serves one checkpoint after the other."""

    def __init__(self) -> None:
        """Make one; memory is taken when there is something to copy."""
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions  # heavy

        on_gpu = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=on_gpu,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=on_gpu,
            )
        )
        self._files: list[tuple[Any, Path]] = []
        self._held: set[str] = set()  # names of files that there is memory for

    def take(self, contents: Any, file: Path) -> None:
        """Copy what a file will hold. Where memory is short, it is written at once."""
        if file.name not in self._held and not _is_room(contents):
            logger.warning(
                "no memory is left for a copy of %s: training waits while it is written", file.name
            )
            torch.save(contents, file)
            return
        self._held.add(file.name)
        self._files.append((self._stager.stage(contents), file))

    def write(self) -> None:
        """Write what was taken, and forget it.

        Raises:
            OSError: a file cannot be written.
        """
        files, self._files = self._files, []
        for contents, file in files:
            torch.save(contents, file)


def _is_room(contents: Any) -> bool:
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return ranks * sum(_storages(contents).values()) < _SHARE_OF_FREE * free_memory()


def _storages(contents: Any) -> dict[int, int]:
    """Bytes of the storages of all tensors within, by their address: tensors may share one."""
    if isinstance(contents, Tensor):
        storage = contents.untyped_storage()
        return {storage.data_ptr(): storage.nbytes()}
    if isinstance(contents, Mapping):
        contents = contents.values()
    elif not isinstance(contents, list | tuple):
        return {}
    return {address: size for value in contents for address, size in _storages(value).items()}
