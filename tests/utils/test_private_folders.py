"""Folders for the time being that another user of the machine can neither prepare nor read."""

import ast
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rasterloom
from rasterloom.errors import StorageError
from rasterloom.pipelines.step import FileStep
from rasterloom.pipelines.workspace.status import local_folder, scratch_folder
from rasterloom.recipe.run import Run
from rasterloom.storage.store import Store
from rasterloom.storage.transfer import upload
from rasterloom.utils import private_folders
from rasterloom.utils.private_folders import (
    make_folder,
    plain_files,
    private_folder,
    private_path,
    remove_old,
)
from rasterloom.versions.corpus import Corpus

ROOT = Path(rasterloom.__file__).parents[2]
SOMEBODY_ELSE = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files as a system has it: everybody may write there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def root(temporary: Path) -> Path:
    return temporary / f"rasterloom-{os.geteuid()}"


def step(make: object = None) -> FileStep:
    return FileStep("train/1-64", Run(), "1", make=make)  # type: ignore[arg-type]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_every_level_is_the_users_own_whatever_the_umask(root: Path) -> None:
    before = os.umask(0)
    try:
        folder = private_folder("steps", "cafe")
    finally:
        os.umask(before)
    assert folder == root / "steps" / "cafe"
    assert [mode(path) for path in (root, root / "steps", folder)] == [0o700] * 3
    assert private_folder("steps", "cafe") == folder  # it is found again
    assert not os.path.lexists(private_path("steps", "new"))  # only the parents are made


@pytest.mark.parametrize("level", ["", "train-1-64", "train-1-64/<fp>"])
@pytest.mark.parametrize("what", ["a link", "a link to nothing", "a file", "open to all"])
def test_what_lies_there_already_is_not_taken(root: Path, tmp_path: Path, level: str, what: str) -> None:
    planted = root / level.replace("<fp>", step().fingerprint)
    planted.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "id_rsa").write_text("canary")
    if what == "open to all":
        planted.mkdir()
        planted.chmod(0o777)
    elif what == "a file":
        planted.write_text("")
    else:
        planted.symlink_to(victim if what == "a link" else tmp_path / "nothing")
    with pytest.raises(StorageError, match=r"set TMPDIR to a folder of your own$") as caught:
        scratch_folder(step())
    assert str(caught.value).startswith(f"{planted} ") and "\n" not in str(caught.value)
    assert [path.name for path in victim.iterdir()] == ["id_rsa"]


@pytest.mark.parametrize("level", ["", "train-1-64", "train-1-64/<fp>"])
@as_root
def test_what_another_user_has_made_is_not_taken(root: Path, level: str) -> None:
    planted = root / level.replace("<fp>", step().fingerprint)
    planted.mkdir(mode=0o700, parents=True)
    root.chmod(0o700)
    os.chown(planted, SOMEBODY_ELSE, SOMEBODY_ELSE)
    with pytest.raises(StorageError, match=rf"{planted} belongs to another user \(uid {SOMEBODY_ELSE}\)"):
        scratch_folder(step())


@as_root
def test_a_user_who_comes_second_works_beside_the_first(root: Path, temporary: Path) -> None:
    first = private_folder("train-1-64")
    (first / "weights").write_text("canary")
    # The test's folders are closed to others, but a working folder is there all the same.
    program = (
        "import os, rasterloom.utils.private_folders as private_folders\n"
        f"os.setresgid(*[{SOMEBODY_ELSE}] * 3); os.setresuid(*[{SOMEBODY_ELSE}] * 3)\n"
        "print(private_folders.private_folder('train-1-64'))\n"
        f"try: print(open('./{root.name}/train-1-64/weights').read())\n"
        "except PermissionError: print('closed')\n"
    )
    environment = {**os.environ, "TMPDIR": ".", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=environment, cwd=temporary, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    folder, other = done.stdout.split()
    assert Path(folder).name == "train-1-64" and Path(folder).parent.name == f"rasterloom-{SOMEBODY_ELSE}"
    assert other == "closed"
    assert (temporary / f"rasterloom-{SOMEBODY_ELSE}").stat().st_uid == SOMEBODY_ELSE


def test_a_worker_on_another_machine_makes_the_drivers_folder_as_private(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere" / "rasterloom-4711" / "train-1-64" / "cafe"
    make_folder(folder)
    assert [mode(path) for path in (folder, folder.parent, folder.parents[1])] == [0o700] * 3
    (folder.parent / "beef").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="beef is a link"):
        make_folder(folder.parent / "beef" / "more")
    make_folder(tmp_path / "plain" / "folder")
    assert (tmp_path / "plain" / "folder").is_dir()


@pytest.mark.parametrize("what", ["file", "folder", "nothing", "pipe"])
def test_a_link_in_a_result_is_not_uploaded(s3: str, tmp_path: Path, what: str) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "result" / "deep"
    folder.mkdir(parents=True)
    secret.mkdir()
    (secret / "id_rsa").write_text("canary")
    (folder / "index.html").write_text("page")
    assert plain_files(folder.parent) == [folder / "index.html"]
    if what == "pipe":
        os.mkfifo(folder / "planted")
    else:
        places = {"file": secret / "id_rsa", "folder": secret, "nothing": secret / "nothing"}
        (folder / "planted").symlink_to(places[what])
    store = Store(f"{s3}/links-{what}")
    with pytest.raises(StorageError, match=r"deep/planted is .*, and is not stored"):
        upload(store, folder.parent, "result")
    assert store.list("") == []


def test_only_what_nobody_has_used_for_long_is_removed(root: Path) -> None:
    folder = private_folder("train-1-64")
    long_ago = time.time() - private_folders.MAX_AGE_S - 60
    for name in ("old", "new", "locked"):
        (folder / name).mkdir()
        (folder / name / "weights").write_text("")
        if name != "new":
            os.utime(folder / name, (long_ago, long_ago))
    with private_folders.FileLock(f"{folder}/locked.lock"):
        remove_old(folder)
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") == ["locked", "new"]


def test_a_copy_of_a_finished_step_gives_way_to_the_next(s3: str, root: Path) -> None:
    from rasterloom.pipelines.workspace.status import write_record
    from rasterloom.versions.record import Record

    corpus, one = Corpus("little", Store(f"{s3}/copies")), step()
    corpus.store.put(f"little/files/{one.name}/{one.fingerprint}/model/weights", b"w")
    copies = []
    for finished in ("2026-01-01T00:00:00", "2026-01-02T00:00:00"):
        write_record(corpus, Record(one.name, one.fingerprint, "1", {}, {}, finished=finished))
        copies.append(local_folder(corpus, one))
        assert (copies[-1] / "model" / "weights").read_bytes() == b"w"
    assert not copies[0].exists() and copies[0] != copies[1]
    assert list(copies[1].parent.iterdir()) == [copies[1]]


def test_a_copy_that_another_has_prepared_is_not_read(s3: str, root: Path, tmp_path: Path) -> None:
    corpus, one = Corpus("little", Store(f"{s3}/prepared")), step()
    copy = private_folder("train-1-64") / f"{one.fingerprint}-copy-"
    copy.symlink_to(tmp_path)
    with pytest.raises(StorageError, match="is a link"):
        local_folder(corpus, one)


PROGRAMS = [path for name in ("rasterloom", "examples", "benchmarks") for path in (ROOT / name).rglob("*.py")]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_names_the_folder_for_temporary_files(path: Path) -> None:
    if path.name == "private_folders.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            assert name not in ("gettempdir", "gettempdirb", "tempdir", "mktemp"), f"{path}:{node.lineno}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            places = ("/tmp/", "/var/tmp", "/dev/shm")
            assert not f"{node.value}/".startswith(places), f"{path}:{node.lineno}: {node.value}"
        if isinstance(node, ast.alias):
            assert node.name not in ("gettempdir", "gettempdirb", "mktemp"), f"{path}:{node.lineno}"


def test_scripts_of_infra_make_folders_of_their_own() -> None:
    for path in (ROOT / "infra").rglob("*"):
        for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
            assert "/tmp/" not in line or "mktemp -d" in line, f"{path}: {line}"


@pytest.mark.parametrize("name", ["s", "long" * 20])
def test_a_folder_for_sockets_is_short_and_nobody_else_gets_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / name))
    folder = private_folders.socket_folder("ray")
    assert len(str(folder.parent)) <= private_folders.SOCKET_FOLDER_BYTES
    found = folder.parent.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, os.geteuid())
    assert private_folders.socket_folder("ray") == folder, "one for all runs, not one for each"
