"""The log file: private, without secrets, limited, and never the reason why work stops."""

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rasterloom.errors import StorageError
from rasterloom.utils import log_file
from rasterloom.utils.log_file import attach

logger = logging.getLogger("rasterloom.tests")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder for temporary files, and no handler of this test on the logger afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = logging.getLogger(log_file.LOGGER)
    before, level = list(root.handlers), root.level
    for handler in before:
        root.removeHandler(handler)
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    for handler in before:
        root.addHandler(handler)
    root.setLevel(level)


def test_a_traceback_stands_in_a_file_that_only_the_user_reads():
    path = attach()
    assert not path.exists()
    try:
        raise ValueError("no bucket at https://me:secret@host/x\x1b[2J")
    except ValueError:
        logger.exception("unexpected")
    text = path.read_text()
    assert "Traceback" in text and "ValueError: no bucket at https://…@host/x\\x1b[2J" in text
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert attach() == path
    logger.info("once")
    assert path.read_text().count("once") == 1


def test_another_process_has_a_file_of_its_own(tmp_path: Path):
    script = (
        "import logging, rasterloom.utils.log_file as f; path = f.attach(); "
        "logging.getLogger('rasterloom.x').warning('there'); print(path)"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    theirs = Path(ran.stdout.strip())
    assert theirs != attach() and theirs.parent == attach().parent
    assert "WARNING" in theirs.read_text() and ran.stderr == ""


def test_a_log_stays_below_its_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log_file, "LIMIT_BYTES", 2000)
    path = attach()
    for number in range(200):
        logger.info("line %d", number)
    files = list(path.parent.iterdir())
    assert len(files) == 2 and sum(file.stat().st_size for file in files) <= 4000
    assert "line 199" in path.read_text()


def test_logs_of_a_month_ago_go():
    first = attach()
    old, young = first.with_name("old.log.1"), first.with_name("young.log")
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    logging.getLogger(log_file.LOGGER).handlers.clear()
    attach()
    assert young.exists() and not old.exists()


def test_a_log_that_cannot_be_written_stops_nothing(capsys: pytest.CaptureFixture[str]):
    path = attach()
    path.mkdir()
    logger.error("lost")
    assert capsys.readouterr().err == ""


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path):
    (tmp_path / f"rasterloom-{os.geteuid()}").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="is a link"):
        attach()
