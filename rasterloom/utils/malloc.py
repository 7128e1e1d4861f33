"""Settings of glibc's malloc for large image buffers."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 256 * 2**20


def keep_freed_memory() -> None:
    """Have glibc reuse image buffers instead of returning them to the system.

    An image needs some megabytes, several times over. By default each of them is mapped anew and its pages
    are faulted in one by one, which costs about a tenth of the time that an image takes. At most
    ``KEPT_BYTES`` that are free stay with the process. Does nothing where malloc is not glibc's.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most that it takes
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
