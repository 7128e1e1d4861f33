"""Links that lead out of a source are not read, by any reader: a canary lies beside each."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasterloom.errors import SourceError
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.sources import Source
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.files import digest_of, find_files
from rasterloom.sources.pairs import check_sources, read_sources

CANARY = "canary-5e1f"
LEADS_OUT = "leads out of the source's folder"


def through(*sources: Source, **config: Any) -> list[dict[str, Any]]:
    check_sources(sources)
    pairs, _ = read_sources(sources)
    images = fetch_shard(pairs, Fetch(robots=False, **config), shard=0, sources=sources)
    rows = [pair | image for pair, image in zip(pairs.to_pylist(), images.to_pylist(), strict=True)]
    assert CANARY not in repr(rows)
    return rows


def outcomes(rows: list[dict[str, Any]]) -> list[str]:
    return [row["error"] or row["caption"] for row in rows]


@pytest.fixture
def secret(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Writes a file that no source has been given."""

    def write(name: str, data: bytes) -> Path:
        (tmp_path / "home").mkdir(exist_ok=True)
        (tmp_path / "home" / name).write_bytes(data)
        return tmp_path / "home" / name

    return write


Secret = Callable[[str, bytes], Path]


@pytest.fixture
def photos(tmp_path: Path, jpeg: bytes) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name in ("1", "2", "deep/3"):
        (folder / f"{name}.jpg").write_bytes(jpeg)
        (folder / f"{name}.txt").write_text(f"number {name}")
    return folder


@pytest.mark.parametrize("suffix", ["txt", "json"])
@pytest.mark.parametrize("glob", ["", "/*.jpg"])
def test_a_sidecar_that_leads_out_blocks_its_row(
    photos: Path, secret: Secret, suffix: str, glob: str
) -> None:
    held = {"txt": CANARY, "json": json.dumps({"caption": CANARY, "more": CANARY})}[suffix]
    (photos / f"2.{suffix}").unlink(missing_ok=True)
    (photos / f"2.{suffix}").symlink_to(secret(f"id_rsa.{suffix}", held.encode()))
    rows = through(Source(path=f"{photos}{glob}", kind="folder"))
    assert outcomes(rows)[:2] == ["number 1", "blocked_path"]
    assert rows[1]["caption"] is None and f"2.{suffix} {LEADS_OUT}" in rows[1]["detail"]
    assert rows[1]["image"] is None


def test_links_within_the_source_are_followed(photos: Path) -> None:
    (photos / "2.txt").unlink()
    (photos / "2.txt").symlink_to("deep/3.txt")
    (photos / "2.jpg").unlink()
    (photos / "2.jpg").symlink_to(photos / "deep" / "3.jpg")
    assert outcomes(through(Source(path=str(photos)))) == ["number 1", "number deep/3", "number deep/3"]


def test_what_the_recipe_names_may_be_a_link_itself(photos: Path, tmp_path: Path, secret: Secret) -> None:
    (tmp_path / "link").symlink_to(photos)
    (photos / "2.txt").unlink()
    (photos / "2.txt").symlink_to(secret("id_rsa", CANARY.encode()))
    expected = ["number 1", "blocked_path", "number deep/3"]
    assert outcomes(through(Source(path=f"{tmp_path}/link"))) == expected
    assert outcomes(through(Source(path=f"{tmp_path}/link/**/*.jpg"))) == expected
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.csv").symlink_to(secret("named.csv", b"url,caption\n,mine\n"))
    pairs, _ = read_sources([Source(path=f"{tmp_path}/lists/a.csv")])
    assert pairs["caption"].to_pylist() == ["mine"]


def test_two_folders_are_no_way_into_what_lies_beside_them(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "more"
    photos.joinpath("deep").rename(other)
    (tmp_path / "id_rsa").write_text(CANARY)
    (photos / "1.txt").unlink()
    (photos / "1.txt").symlink_to(tmp_path / "id_rsa")
    (photos / "2.txt").unlink()
    (photos / "2.txt").symlink_to(other / "3.txt")  # which the recipe names, too
    rows = through(Source(path=(str(photos), str(other)), name="both"))
    assert outcomes(rows) == ["blocked_path", "number deep/3", "number deep/3"]


@pytest.mark.parametrize("name", ["2.txt", "2.json"])
def test_a_pipe_beside_an_image_is_not_waited_for(photos: Path, name: str) -> None:
    (photos / name).unlink(missing_ok=True)
    os.mkfifo(photos / name)
    rows = through(Source(path=str(photos)))
    assert outcomes(rows)[::2] == ["number 1", "number deep/3"]
    (photos / name).unlink()
    (photos / name).symlink_to("/dev/zero")
    assert outcomes(through(Source(path=str(photos))))[1] == "blocked_path"


def tables(jpeg: bytes) -> dict[str, bytes]:
    """A file of each kind whose rows all hold the canary."""
    parquet, tar = io.BytesIO(), io.BytesIO()
    pq.write_table(pa.table({"url": ["http://a/1"], "caption": [CANARY]}), parquet)
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in (("1.jpg", jpeg), ("1.txt", CANARY.encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    turns = [{"from": "human", "value": CANARY}, {"from": "gpt", "value": CANARY}]
    return {
        "parquet": parquet.getvalue(),
        "csv": f"url,caption\nhttp://a/1,{CANARY}\n".encode(),
        "tsv": f"url\tcaption\nhttp://a/1\t{CANARY}\n".encode(),
        "jsonl": json.dumps({"url": "http://a/1", "caption": CANARY}).encode(),
        "json": json.dumps([{"conversations": turns}]).encode(),
        "tar": tar.getvalue(),
    }


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "jsonl", "json", "tar"])
@pytest.mark.parametrize("glob", [False, True])
def test_a_table_that_leads_out_is_one_line_before_anything_runs(
    tmp_path: Path, secret: Secret, jpeg: bytes, suffix: str, glob: bool
) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    link = folder / f"part.{suffix}"
    link.symlink_to(secret(f"private.{suffix}", tables(jpeg)[suffix]))
    kind = {"json": "conversations", "tsv": "csv", "tar": "webdataset"}.get(suffix, suffix)
    source = Source(path=f"{folder}/*.{suffix}" if glob else str(folder), kind=kind, name="lists")
    for read in (check_sources, read_sources):
        with pytest.raises(SourceError, match=LEADS_OUT) as caught:
            read([source])
        assert str(link) in str(caught.value) and CANARY not in str(caught.value)
    assert read_sources([source.model_copy(update={"path": str(link)})])[1]["read"] == 1  # the way out


def test_a_pipe_among_tables_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    for path in (tmp_path, tmp_path / "a.csv"):
        with pytest.raises(SourceError, match=r"a\.csv: cannot be read: no regular file"):
            check_sources([Source(path=str(path), kind="csv")])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("member", ["1.txt", "1.json", "1.jpg"])
def test_members_of_tars_that_are_links_hold_nothing(
    tmp_path: Path, secret: Secret, jpeg: bytes, kind: bytes, member: str
) -> None:
    target = secret("id_rsa", CANARY.encode())
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("1.jpg", "1.json", "1.txt"):
            info = tarfile.TarInfo(name)
            data = jpeg if name == "1.jpg" else b'{"caption": "one"}'
            info.size = len(data)
            if name == member:
                info.type, info.linkname, info.size, data = kind, str(target), 0, b""
            tar.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("2.jpg")
        info.size = len(jpeg)
        tar.addfile(info, io.BytesIO(jpeg))
        info = tarfile.TarInfo("2.txt")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"two"))
    row, _ = through(Source(path=f"{tmp_path}/a.tar"))
    assert (row["error"] or "one") == ("bad_row" if member == "1.jpg" else "one")


def test_what_img2dataset_wrote_is_guarded_as_any_folder(tmp_path: Path, secret: Secret, jpeg: bytes) -> None:
    folder = tmp_path / "output"
    (folder / "00000").mkdir(parents=True)
    (folder / "00000_stats.json").write_text("{}")
    rows = {"url": ["http://a/1"], "caption": ["one"], "status": ["success"]}
    pq.write_table(pa.table(rows), folder / "00000.parquet")
    (folder / "00000" / "000000000.jpg").write_bytes(jpeg)
    (folder / "00000" / "000000000.txt").symlink_to(secret("id_rsa", CANARY.encode()))
    assert outcomes(through(Source(path=str(folder)))) == ["blocked_path"]
    (folder / "00000.parquet").unlink()
    (folder / "00000.parquet").symlink_to(secret("private.parquet", tables(jpeg)["parquet"]))
    with pytest.raises(SourceError, match=LEADS_OUT):
        check_sources([Source(path=str(folder), kind="img2dataset")])


@pytest.mark.parametrize("kind", ["conversations", "jsonl"])
@pytest.mark.parametrize("root", [False, True])
def test_images_that_rows_name_lie_in_their_folder(
    tmp_path: Path, secret: Secret, jpeg: bytes, kind: str, root: bool
) -> None:
    lists = tmp_path / "lists"
    pictures = tmp_path / "pictures" if root else lists
    for folder in {lists, pictures}:
        folder.mkdir()
    (pictures / "1.jpg").write_bytes(jpeg)
    (pictures / "2.jpg").symlink_to(secret("private.jpg", jpeg))
    (pictures / "3.jpg").symlink_to("1.jpg")
    (pictures / "deep").symlink_to(tmp_path / "home")
    names = ["1.jpg", "2.jpg", "3.jpg", "deep/private.jpg", "../home/private.jpg"]
    turns = [{"from": "human", "value": "<|image|> What?"}, {"from": "gpt", "value": "That."}]
    told = {"conversations": turns} if kind == "conversations" else {"question": "What?"}
    column = "image" if kind == "conversations" else "own"
    records = [{column: name, **told} for name in names]
    (lists / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    more: dict[str, Any] = {} if kind == "conversations" else {"task": "vqa", "input": "own"}
    source = Source(path=f"{lists}/a.jsonl", kind=kind, root=str(pictures) if root else "", **more)
    found = [row["error"] for row in through(source)]
    assert found == [None, "blocked_path", None, "blocked_path", "bad_row"]


@pytest.fixture
def hub_cache(tmp_path: Path, jpeg: bytes) -> Path:
    """A snapshot as `snapshot_download` leaves it in its cache: links into `blobs`."""
    repository = tmp_path / "hub" / "datasets--owner--set"
    snapshot = repository / "snapshots" / "0123abcd"
    (snapshot / "photos").mkdir(parents=True)
    (repository / "blobs").mkdir()
    files = {
        "photos/1.jpg": jpeg,
        "photos/1.txt": b"one",
        "00000.tar": tables(jpeg)["tar"].replace(CANARY.encode(), b"of a tar 00"),
        "rows.csv": b"url,caption\n,from a list\n",
    }
    for number, (name, data) in enumerate(files.items()):
        (repository / "blobs" / f"{number:040x}").write_bytes(data)
        (snapshot / name).symlink_to(f"{'../' * (2 + name.count('/'))}blobs/{number:040x}")
    return snapshot


def test_hugging_faces_cache_is_links_into_its_blobs(hub_cache: Path, tmp_path: Path, secret: Secret) -> None:
    assert outcomes(through(Source(path=f"{hub_cache}/photos"))) == ["one"]
    assert outcomes(through(Source(path=f"{hub_cache}/*.tar", name="tars"))) == ["of a tar 00"]
    assert read_sources([Source(path=f"{hub_cache}/*.csv")])[0]["caption"].to_pylist() == ["from a list"]
    (tmp_path / "mine").symlink_to(hub_cache)
    assert outcomes(through(Source(path=f"{tmp_path}/mine/photos"))) == ["one"]
    (hub_cache / "photos" / "1.txt").unlink()
    (hub_cache / "photos" / "1.txt").symlink_to(secret("id_rsa", CANARY.encode()))
    assert outcomes(through(Source(path=f"{hub_cache}/photos"))) == ["blocked_path"]


@pytest.mark.parametrize("how", ["blobs is a link", "no repository", "another repository"])
def test_what_only_looks_like_that_cache_is_blocked(hub_cache: Path, tmp_path: Path, how: str) -> None:
    (tmp_path / "home").mkdir()
    repository = hub_cache.parents[1]
    if how == "blobs is a link":
        (repository / "blobs").rename(tmp_path / "home" / "blobs")
        (repository / "blobs").symlink_to(tmp_path / "home" / "blobs")
    elif how == "no repository":
        repository = repository.rename(tmp_path / "hub" / "set")
    else:
        other = tmp_path / "hub" / "datasets--other--set" / "snapshots" / "0123abcd" / "photos"
        other.mkdir(parents=True)
        for name in ("1.jpg", "1.txt"):
            (other / name).symlink_to((hub_cache / "photos" / name).resolve())
        repository = other.parents[2]
    source = Source(path=f"{repository}/snapshots/0123abcd/photos")
    assert outcomes(through(source)) == ["blocked_path"]


@pytest.mark.parametrize("how", ["a link", "its card", "its card, by URL", "metadata of images"])
def test_a_data_set_that_datasets_reads_holds_no_file_of_elsewhere(
    tmp_path: Path, secret: Secret, jpeg: bytes, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    private = secret("private.csv", f"file_name,url,caption\n1.jpg,http://a/1,{CANARY}\n".encode())
    if how == "a link":
        (folder / "train.csv").symlink_to(private)
    elif how == "metadata of images":
        (folder / "1.jpg").write_bytes(jpeg)
        (folder / "metadata.csv").symlink_to(private)
    else:
        place = f"file://{private}" if how.endswith("URL") else str(private)
        (folder / "README.md").write_text(
            f"---\nconfigs:\n- config_name: default\n  data_files: {place}\n---\n"
        )
    for read in (check_sources, read_sources):
        with pytest.raises(SourceError, match=f"{LEADS_OUT}|does not lie in the data set") as caught:
            read([Source(path=str(folder), kind="hf")])
        assert CANARY not in str(caught.value)


@pytest.mark.parametrize("large", [False, True])
def test_what_lies_elsewhere_is_no_part_of_what_a_source_holds(
    photos: Path, secret: Secret, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr("rasterloom.sources.files.CONTENT_BYTES", 1)

    def digest() -> str:
        return digest_of(find_files(Source(path=str(photos))))

    before = digest()
    (photos / "2.json").symlink_to(private := secret("id_rsa", CANARY.encode()))
    linked = digest()
    private.write_text(CANARY[::-1])
    os.utime(private, (1, 1))
    assert before != linked == digest()
