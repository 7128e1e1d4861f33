"""Importing changes nothing of the process; the first image, or a worker's start, does."""

import subprocess
import sys

CODE = """
import atexit, warnings
import cv2
from PIL import Image
cv2.setNumThreads(2)
def state():
    pillow = (Image.MAX_IMAGE_PIXELS, Image._initialized)
    return (*pillow, list(warnings.filters), cv2.getNumThreads(), atexit._ncallbacks())
import numpy, pyarrow, simplejpeg, aiohttp, asyncio, concurrent.futures, multiprocessing.util
import botocore.httpsession  # sets filters of its own
before = state()
import rasterloom.sources.images.decode as decode
import rasterloom.sources.images.resize
assert state() == before, (state(), before)
import rasterloom.sources.fetch.client_pool as client_pool
assert state()[:4] == before[:4]
assert client_pool._close_at_exit.cache_info().misses == 0
decode.configure_pillow()
limit, formats, filters, threads, _ = state()
assert limit is None and formats == 2 and threads == 1 and len(filters) == len(before[2]) + 1
"""


def test_importing_changes_nothing():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
