"""Access check for local files that a source leads to.

What a recipe names is trusted, whatever links its path leads through. What lies in a source was put there
by others: a link in it is followed only to a regular file within the source's own folders.
"""

import os
import re
import stat
from collections.abc import Sequence

from rasterloom.errors import SourceError

_HUB_REPOSITORY = re.compile(r"(datasets|models|spaces)--.+")


class BlockedPath(SourceError):
    """A file leads out of its source. The message names the file and the way out."""


def real_path(path: str, folders: Sequence[str], shown: str = "") -> str:
    """Return the path of a regular file without links in it.

    Args:
        folders: that it must lie in, each as :func:`real_folders` gives them.
        shown: what the file is called in messages; the path when empty.

    Raises:
        BlockedPath: it lies elsewhere.
        OSError: there is none, or it is a pipe, a device, a folder: opening one may never end.
    """
    real = os.path.realpath(path)
    if not any(real.startswith(f"{folder.rstrip('/')}/") for folder in folders):
        raise BlockedPath(
            f"{shown or path} leads out of the source's folder: copy the file there, or name it in the recipe"
        )
    return regular_file(real)


def regular_file(path: str) -> str:
    """Return the path of a recipe's file, without links. Raises: OSError, if it is none."""
    real = os.path.realpath(path)
    if not stat.S_ISREG(os.lstat(real).st_mode):
        raise OSError("no regular file")
    return real


def real_folders(folder: str) -> list[str]:
    """Return the real folders that a source's files may lie in.

    These are the folder itself and, of a snapshot in Hugging Face's cache, ``blobs`` of the same repository,
    where all files of ``snapshots`` really lie.
    """
    real = os.path.realpath(folder)
    parts = real.split("/")
    for at in range(len(parts) - 1, 0, -1):
        if parts[at] == "snapshots" and _HUB_REPOSITORY.fullmatch(parts[at - 1]):
            blobs = "/".join([*parts[:at], "blobs"])
            return [real, blobs] if os.path.realpath(blobs) == blobs else [real]
    return [real]
