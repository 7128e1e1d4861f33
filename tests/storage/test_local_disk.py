"""What says that a disk is full is known, however it comes."""

import errno

import pytest
import sqlalchemy

from rasterloom.errors import StorageError
from rasterloom.storage import local_disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_an_error_of_a_full_disk_names_the_place_and_the_way_out(code):
    way_out = r"^/work: no space is left .* make room and run the same command"
    with pytest.raises(StorageError, match=way_out), local_disk.full_disk_errors("/work"):
        raise OSError(code, "what the system says")


def test_other_errors_stay_as_they_are():
    with pytest.raises(PermissionError), local_disk.full_disk_errors("/work"):
        raise PermissionError(errno.EACCES, "not yours")
    assert not local_disk.is_full(PermissionError(errno.EACCES, "not yours")) and not local_disk.is_full(None)


def test_what_came_of_a_full_disk_counts():
    try:
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError as error:
            raise RuntimeError("the step failed") from error
    except RuntimeError as error:
        assert local_disk.is_full(error)


def test_a_catalog_on_a_full_disk(tmp_path):
    """SQLite's own error, of a database that may not grow."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'catalog.db'}")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 3")
        connection.exec_driver_sql("CREATE TABLE t (a BLOB)")
        with pytest.raises(sqlalchemy.exc.OperationalError) as caught:
            connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(1000000))")
        assert local_disk.is_full(caught.value)
        with pytest.raises(sqlalchemy.exc.OperationalError) as caught:
            connection.exec_driver_sql("SELECT * FROM nothing")
        assert not local_disk.is_full(caught.value)
    engine.dispose()
