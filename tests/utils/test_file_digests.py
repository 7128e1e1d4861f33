"""Digests of files are remembered as long as nothing about the file differs."""

import hashlib
import json
import os
import time

import pytest

from rasterloom.utils import file_digests
from rasterloom.utils.file_digests import file_digest, recalled, remember

OLD = 1_000_000_000  # seconds


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that has been there for long, as seen by a clock that is an hour ahead."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    now = time.time_ns
    monkeypatch.setattr(file_digests.time, "time_ns", lambda: now() + 3600 * 10**9)
    path = tmp_path / "weights"
    path.write_bytes(b"content")
    return path


def sha(data):
    return hashlib.sha256(data).hexdigest()


def forge(file, digest="forged"):
    """Change what is remembered of a file, to see whether it is asked."""
    known = recalled(f"file {file}")
    remember(f"file {file}", {**known, "digest": digest})


def test_a_digest_is_computed_once(file):
    assert file_digest(file) == sha(b"content")
    forge(file)
    assert file_digest(file) == "forged"


def test_size_time_and_inode_count(file):
    for change in ("size", "mtime", "inode"):
        file_digest(file)
        forge(file)
        if change == "size":
            file.write_bytes(b"content, longer")
        elif change == "mtime":
            os.utime(file, (OLD, OLD))
        else:
            stat, other = file.stat(), file.with_name("other")
            other.write_bytes(b"CONTENT, longer")
            os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            os.replace(other, file)
        assert file_digest(file) == sha(file.read_bytes()), change


def test_a_file_just_written_is_not_remembered(file, monkeypatch):
    """Two writes in one tick of the clock leave the same size and times."""
    monkeypatch.undo()
    monkeypatch.setenv("TMPDIR", str(file.parent / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    file.write_bytes(b"tick")
    assert file_digest(file) == sha(b"tick")
    assert recalled(f"file {file}") is None


def test_what_cannot_be_read_is_computed_again(file):
    file_digest(file)
    (note,) = (file.parent / "tmp").rglob("*.json")
    note.write_text("{")
    assert file_digest(file) == sha(b"content")
    note.write_text(json.dumps({"name": "another file", "identity": [], "digest": "x"}))
    assert file_digest(file) == sha(b"content")


def test_without_a_private_folder_nothing_is_remembered(file):
    (file.parent / "tmp" / f"rasterloom-{os.geteuid()}").write_text("no folder")
    assert file_digest(file) == sha(b"content")
    assert recalled(f"file {file}") is None
