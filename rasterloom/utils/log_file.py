"""The log file of a process, in the user's private folder."""

import contextlib
import logging
import os
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path

from rasterloom.utils.private_folders import MAX_AGE_S, private_folder
from rasterloom.utils.redact import LINES, safe

LOGGER = "rasterloom"
LIMIT_BYTES = 10 * 2**20
FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"


def attach() -> Path:
    """Log this process, DEBUG aside, to a file; return its path.

    The file is made when something is logged first. A second call returns the same path. Files that are a
    month old are removed.

    Raises:
        StorageError: the private folder, or a level above it, is a link or somebody else's.
    """
    logger = logging.getLogger(LOGGER)
    for handler in logger.handlers:
        if isinstance(handler, _LogFile):
            if handler.pid == os.getpid():
                return Path(handler.baseFilename)
            logger.removeHandler(handler)  # of the process that this one was forked from
    folder = private_folder("logs")
    for path in folder.glob("*.log*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime < time.time() - MAX_AGE_S:
                path.unlink()
    handler = _LogFile(folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return Path(handler.baseFilename)


class _LogFile(RotatingFileHandler):
    """Rotating log without secrets; a failing write stops no work."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LIMIT_BYTES, backupCount=1, encoding="utf-8", delay=True)
        self.pid = os.getpid()
        self.setFormatter(logging.Formatter(FORMAT))

    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record), LINES)

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore a failing write.

        logging's own would print a traceback over the live view.
        """
