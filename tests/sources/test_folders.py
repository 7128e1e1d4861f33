"""Folders and tars in the forms that people have: sidecars of all names, images of all kinds, odd folders."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasterloom.errors import SourceError, StepFailed
from rasterloom.recipe.fetch import Fetch
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.sources import Source
from rasterloom.sources.fetch.shard import fetch_shard
from rasterloom.sources.files import HIDDEN, LINKED
from rasterloom.sources.pairs import check_sources, read_sources
from rasterloom.sources.readers import built_in, webdataset
from rasterloom.sources.readers.folder import by_folder
from rasterloom.sources.readers.registry import kind_of, source_digest, survey_source
from rasterloom.storage.store import Entry

IMG2DATASET = Path(__file__).parent / "img2dataset"


def rows_of(path: Path, **options: Any) -> list[dict[str, Any]]:
    source = Source(path=str(path), **options)
    check_sources([source])
    pairs, _ = read_sources([source])
    images = fetch_shard(pairs, Fetch(robots=False), shard=0, sources=[source])
    return [pair | image for pair, image in zip(pairs.to_pylist(), images.to_pylist(), strict=True)]


def outcomes(rows: list[dict[str, Any]]) -> list[str]:
    return [row["error"] or row["caption"] for row in rows]


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


NAMES = {
    "IMG_1.JPG": "IMG_1.TXT",
    "b.jpg": "b.caption",
    "c.jpg": "c.jpg.txt",
    "d.jpg": "d.txt",
    "e.f.g.jpg": "e.f.g.txt",
    "h.JPG": "h.JPG.Caption",
}


@pytest.mark.parametrize("glob", ["", "/*.[jJ][pP][gG]"])
def test_captions_under_the_names_that_people_give(tmp_path: Path, jpeg: bytes, glob: str) -> None:
    files = dict.fromkeys(NAMES, jpeg) | {text: text.encode() for text in NAMES.values()}
    write(tmp_path / "in", files)
    rows = rows_of(Path(f"{tmp_path}/in{glob}"))
    assert {row["path"]: row["error"] or row["caption"] for row in rows} == NAMES


def test_the_same_names_in_a_tar(tmp_path: Path, jpeg: bytes) -> None:
    members = [item for name, text in NAMES.items() for item in ((name, jpeg), (text, text.encode()))]
    assert outcomes(rows_of(write_tar(tmp_path / "a.tar", members))) == list(NAMES.values())


def test_several_texts_beside_an_image_are_all_kept(tmp_path: Path, jpeg: bytes) -> None:
    texts = {
        "a.txt": b"one",
        "a.TXT": b"none",
        "a.caption": b"two",
        "a.jpg.txt": b"one",
        "a.json": b'{"n": 1}',
    }
    (row,) = rows_of(write(tmp_path, {"a.jpg": jpeg, **texts}))
    assert row["caption"] == "one" and json.loads(row["meta"]) == {".caption": "two", "n": 1}


def test_images_of_every_kind_are_rows(tmp_path: Path, jpeg: bytes) -> None:
    names = ("a.jpg", "b.heic", "c.jxl", "d.jp2", "e.jpg_large", "f", "g.HEIF", "h.ico", "i.svg", "j.xyz")
    files = {name: jpeg if name != "i.svg" else b"<svg/>" for name in names}
    captions = {f"{name[0]}.txt": f"called {name}".encode() for name in names}
    write(
        tmp_path, files | captions | {"notes.md": b"x", "notes.txt": b"y", "k.dat": b"no caption, no image"}
    )
    rows = rows_of(tmp_path)
    assert {row["path"]: row["error"] or row["caption"] for row in rows} == {
        name: "not_an_image" if name == "i.svg" else f"called {name}" for name in names
    }


def test_what_trainers_store_beside_images_is_no_image(tmp_path: Path, jpeg: bytes) -> None:
    beside = {"a.npz": b"latents", "a_sd.safetensors": b"", "a.mp4": b"the film that it was taken from"}
    assert len(rows_of(write(tmp_path, {"a.jpg": jpeg, "a.txt": b"a", **beside}))) == 1


def test_a_folder_of_photographs_alone_that_are_not_decoded(tmp_path: Path) -> None:
    write(tmp_path, {"a.cr2": b"raw", "a.txt": b"a"})
    assert kind_of(Source(path=str(tmp_path))) == "folder"
    assert outcomes(rows_of(tmp_path)) == ["not_an_image"]


def test_a_folder_of_lists_with_a_drawing_stays_a_list(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": b"url,caption\nhttp://a/1,one\n", "logo.svg": b"<svg/>"})
    assert kind_of(Source(path=str(tmp_path))) == "csv"


def test_a_folder_between_an_image_and_its_caption(tmp_path: Path, jpeg: bytes) -> None:
    files = {
        "1.jpg": jpeg,
        "1.raw/2.jpg": jpeg,
        "1.raw/2.txt": b"two",
        "1.txt": b"one",
        "x": jpeg,
        "x-1/y.jpg": jpeg,
    }
    rows = rows_of(write(tmp_path / "in", files | {"x.txt": b"ex", "x-1/y.txt": b"why"}), kind="folder")
    assert {row["path"]: row["error"] or row["caption"] for row in rows} == {
        "1.jpg": "one", "1.raw/2.jpg": "two", "x": "ex", "x-1/y.jpg": "why",
    }  # fmt: skip


def test_files_come_by_folder_in_the_order_of_the_listing() -> None:
    names = ["1.jpg", "1.txt", "10/a.jpg", "2.jpg", "2.d/b.jpg", "2.d/2.d/c.jpg", "2.txt", "e/f.jpg"]
    groups = [[entry.name for entry in group] for group in by_folder(Entry(name, 0, "") for name in names)]
    assert groups == [
        ["1.jpg", "1.txt"], ["10/a.jpg"], ["2.d/b.jpg"], ["2.d/2.d/c.jpg"], ["2.jpg", "2.txt"], ["e/f.jpg"],
    ]  # fmt: skip


def test_names_with_dots_in_a_tar(tmp_path: Path, jpeg: bytes) -> None:
    names = ("22.05", "22.06", "St. Ives", "v1.2_final")
    members = [m for n in names for m in ((f"a/{n}.jpg", jpeg), (f"a/{n}.txt", n.encode()))]
    rows = rows_of(write_tar(tmp_path / "a.tar", members))
    assert outcomes(rows) == list(names)
    keys = [json.loads(row["meta"])["__key__"] for row in rows]
    assert keys == ["a/22.05", "a/22.06", "a/St. ives", "a/v1.2_final"]


def test_webdatasets_own_rule_stays(tmp_path: Path, jpeg: bytes) -> None:
    members = [
        ("a.left.jpg", jpeg),
        ("a.right.jpg", jpeg),
        ("a.txt", b"both"),
        ("b.jpg", jpeg),
        ("b.seg.png", b"x"),
    ]
    rows = rows_of(write_tar(tmp_path / "a.tar", [*members, ("b.txt", b"b"), ("b.nef", b"raw")]))
    assert outcomes(rows) == ["both", "both", "b"]


def test_an_image_beside_another_with_a_caption_of_its_own_is_counted(tmp_path: Path, jpeg: bytes) -> None:
    members = [("22.jpg", jpeg), ("22.txt", b"a"), ("22.05.jpg", jpeg), ("22.05.txt", b"b")]
    rows = rows_of(write_tar(tmp_path / "a.tar", members))
    assert outcomes(rows) == ["a", "bad_row"]
    assert rows[1]["detail"].startswith("22.05.jpg has a caption of its own")


def test_a_sample_without_end_is_cut_between_names(
    tmp_path: Path, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webdataset, "MAX_MEMBERS", 7)
    members = [m for i in range(30) for m in ((f"1.{i}.jpg", jpeg), (f"1.{i}.txt", b"%d" % i))]
    assert outcomes(rows_of(write_tar(tmp_path / "a.tar", members))) == [str(i) for i in range(30)]


def test_links_in_a_tar_are_rows_that_say_so(tmp_path: Path, jpeg: bytes) -> None:
    write(tmp_path / "in", {"a.jpg": jpeg, "a.txt": b"a", "b.txt": b"b", "c.txt": b"c"})
    os.link(tmp_path / "in" / "a.jpg", tmp_path / "in" / "b.jpg")
    (tmp_path / "in" / "c.jpg").symlink_to("/etc/passwd")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.jpg", "a.txt", "b.jpg", "b.txt", "c.jpg", "c.txt"):
            tar.add(tmp_path / "in" / name, name)
    rows = rows_of(tmp_path / "a.tar")
    assert outcomes(rows) == ["a", "bad_row", "bad_row"]
    assert (
        "b.jpg is not read: it is a hard link to a.jpg: pack it with links dereferenced" in rows[1]["detail"]
    )
    assert rows[1]["caption"] == "b" and "it is a link to /etc/passwd" in rows[2]["detail"]


def test_tars_one_behind_the_other_and_broken_ones(tmp_path: Path, jpeg: bytes) -> None:
    one = write_tar(tmp_path / "1", [("a.jpg", jpeg), ("a.txt", b"a")]).read_bytes()
    two = bytearray(
        write_tar(tmp_path / "2", [("b.jpg", jpeg), ("c.jpg", jpeg), ("c.txt", b"c")]).read_bytes()
    )
    two[0] ^= 0xFF
    (tmp_path / "in.tar").write_bytes(one + bytes(two))
    rows = rows_of(tmp_path / "in.tar")
    assert outcomes(rows) == ["a", "c", "bad_row"]
    assert rows[2]["detail"].endswith("from byte 10,240 on, are no archive; it goes on at byte 12,288")


def test_what_is_read_as_before_counts_as_unchanged(tmp_path: Path, jpeg: bytes) -> None:
    source = Source(path=str(write(tmp_path / "in", {"a.jpg": jpeg, "a.txt": b"a", "READ.md": b"x"})))
    assert "-" not in source_digest(source)
    for name in ("b.caption", "a.jpg.txt", "b.TXT", "b.heic", "b"):
        write(tmp_path / "in", {name: b"x"})
        assert source_digest(source).endswith("-2")
        (tmp_path / "in" / name).unlink()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"a.jpg": b"x", "metadata.csv": b"file_name,text\n"},
            "no captions found beside its 1 images; metadata.csv is",
        ),
        ({"a.jpg": b"x", "b/metadata.jsonl": b"{}"}, "b/metadata.jsonl is there: kind: hf?"),
        ({"a.jpg": b"x", "b.png": b"x", "list.tsv": b"x"}, "list.tsv is there: name it as the source's path"),
        ({"a.jpg": b"x"}, "no captions found beside its 1 images; write `caption: none`"),
        (
            {"a.jpg": b"x", "a.json": b'{"text": "a", "n": 1}'},
            "in 'caption'; they have text, n: name it by `caption`",
        ),
        ({"a.txt": b"x"}, "no images there"),
    ],
)
def test_a_folder_without_captions_stops_before_anything_runs(
    tmp_path: Path, files: dict[str, bytes], words: str
) -> None:
    write(tmp_path, files)
    with pytest.raises(SourceError) as caught:
        check_sources([Source(path=str(tmp_path), kind="folder")])
    assert words in str(caught.value) and "\n" not in str(caught.value)
    check = [Source(path=str(tmp_path), kind="folder", caption="none")]
    if "a.jpg" in files:
        check_sources(check)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (
            [("a.jpg", b"x"), ("a.cls", b"7")],
            "has a caption in 'caption'; no .txt, .caption or .json stands beside",
        ),
        (
            [("a.jpg", b"x"), ("a.json", b'{"text": "a"}')],
            "has a caption in 'caption'; they have text: name it",
        ),
        (
            [("a.npy", b"x"), ("a.txt", b"a")],
            "none of the first 1 samples can be used: a sample without an image",
        ),
        ([], "it holds no samples"),
    ],
)
def test_a_tar_that_gives_no_pair_stops_before_anything_runs(
    tmp_path: Path, members: list[tuple[str, bytes]], words: str
) -> None:
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(SourceError) as caught:
        check_sources([Source(path=str(tmp_path / "a.tar"))])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_few_images_without_captions_do_not_stop_a_folder(tmp_path: Path, jpeg: bytes) -> None:
    write(tmp_path, {f"{i}.jpg": jpeg for i in range(5)} | {"4.txt": b"four"})
    assert outcomes(rows_of(tmp_path)) == ["bad_caption"] * 4 + ["four"]


def test_records_of_a_folder_are_rows_or_counted(tmp_path: Path, jpeg: bytes) -> None:
    files = {
        "a.jpg": jpeg,
        "a.txt": b"a",
        "a.json": b"{}",
        "b/c.heic": b"x",
        "b/notes.md": b"x",
        "b/d.txt": b"d",
    }
    source = Source(path=str(write(tmp_path, files)))
    _, counts = read_sources([source])
    assert counts == {"read": 2, "repeated": 0, "pairs": 2, "not read, no image, nor beside one": 2}
    survey = survey_source(source)
    assert survey and survey.lines() == [
        "1 .jpg, 1 .json, 1 .txt, 1 .heic read",
        "1 .txt not read (no image of the same name beside it)",
        "1 .md not read (no image)",
    ]


def test_records_of_a_tar_are_rows_or_counted(tmp_path: Path, jpeg: bytes) -> None:
    members = [
        ("a.jpg", jpeg),
        ("a.txt", b"a"),
        ("a.json", b"{}"),
        (".x.jpg", b"x"),
        ("b.npy", b"x"),
        ("c.jpg", jpeg),
    ]
    path = write_tar(tmp_path / "a.tar", [*members, ("c.webp", jpeg), ("d/", b"")])
    path.write_bytes(path.read_bytes() + b"junk")
    _, counts = read_sources([Source(path=str(path))])
    left_out = {"not read, a folder, or a name that begins with a dot": 2}
    assert counts == {"read": 5, "repeated": 0, "pairs": 5, **left_out}


def test_a_reader_that_loses_a_row_stops_the_step(
    tmp_path: Path, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loses(*arguments: Any) -> Any:
        yield from list(webdataset.read(*arguments))[1:]

    path = write_tar(tmp_path / "a.tar", [(f"{i}.jpg", jpeg) for i in range(3)])
    broken = replace(built_in.BUILT_IN["webdataset"], read_file=loses)  # type: ignore[type-var]
    monkeypatch.setitem(built_in.BUILT_IN, "webdataset", broken)
    with pytest.raises(StepFailed, match=r"source 'a': a\.tar: 3 records, of which 2 became rows"):
        read_sources([Source(path=str(path))])


def test_img2dataset_says_which_images_are_gone(tmp_path: Path) -> None:
    for form, gone in (("files", "00000/000000.jpg"), ("webdataset", "00000.tar")):
        shutil.copytree(IMG2DATASET / form, tmp_path / form)
        assert not [row for row in rows_of(tmp_path / form) if row["error"] == "bad_row"]
        (tmp_path / form / gone).unlink()
        rows = [row for row in rows_of(tmp_path / form) if row["error"] == "bad_row"]
        assert len(rows) == 1 and "00000.parquet: " in rows[0]["detail"]
        assert "images that it says were downloaded are not there" in rows[0]["detail"]


@pytest.fixture
def hub_cache(tmp_path: Path, jpeg: bytes) -> Path:
    """A data set as `snapshot_download` leaves it in its cache: links into the folder blobs."""
    root = tmp_path / "hub" / "datasets--owner--set"
    snapshot = root / "snapshots" / "0123abcd"
    write(root / "blobs", {"cccc": jpeg, "dddd": b"six"})
    pq.write_table(
        pa.table({"image": [jpeg, jpeg + b"!"], "caption": ["one", "two"]}), root / "blobs" / "aaaa"
    )
    write_tar(root / "blobs" / "bbbb", [("1.jpg", jpeg), ("1.txt", b"four")])
    (root / "blobs" / "eeee").write_bytes(b"image,caption\nphotos/1.jpg,seven\n")
    links = {
        "data/train.parquet": "aaaa",
        "00000.tar": "bbbb",
        "photos/1.jpg": "cccc",
        "photos/1.txt": "dddd",
    }
    for name, blob in (links | {"list.csv": "eeee"}).items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(root / "blobs" / blob, (snapshot / name).parent))
    return snapshot


@pytest.mark.parametrize(
    ("path", "options", "captions"),
    [
        ("data/*.parquet", "image: image", ["one", "two"]),
        ("data/train.parquet", "image: image", ["one", "two"]),
        ("*.tar", "name: tars", ["four"]),
        ("00000.tar", "name: tars", ["four"]),
        ("photos", "name: photos", ["six"]),
        ("list.csv", "image: image", ["seven"]),
    ],
)
def test_links_of_hugging_faces_cache(hub_cache: Path, path: str, options: str, captions: list[str]) -> None:
    recipe = hub_cache.parents[2] / "recipe.yaml"
    place = hub_cache.relative_to(recipe.parent)
    recipe.write_text(f"corpus: c\nsources: [{{path: '{place}/{path}', {options}}}]\n")
    (source,) = load_recipe(recipe).sources
    check_sources([source])
    pairs, _ = read_sources([source])
    assert pairs["caption"].to_pylist() == captions
    images = fetch_shard(pairs, Fetch(), shard=0, sources=[source])
    assert images["detail"].null_count == len(captions)


def test_what_is_not_even_looked_at_is_named(tmp_path: Path, jpeg: bytes) -> None:
    write(
        tmp_path / "in",
        {"a.jpg": jpeg, "a.txt": b"a", ".b.jpg": jpeg, ".git/x": b"", "c/.d": b"", "c/e.jpg": jpeg},
    )
    write(tmp_path / "large", {"f.jpg": jpeg, "l.csv": b"url,caption\nhttp://a/1,one\n"})
    (tmp_path / "in" / "link").symlink_to(tmp_path / "large")
    survey = survey_source(Source(path=str(tmp_path / "in")))
    assert survey and survey.lines()[1:] == [
        f"1 .jpg, 1 folder, 1 without a suffix not read ({HIDDEN})",
        f"1 folder not read ({LINKED})",
    ]
    _, counts = read_sources([Source(path=str(tmp_path / "in"))])
    assert {name: n for name, n in counts.items() if "not read" in name} == {
        "files not read, names with a dot in front": 3, "files not read, links to folders": 1,
    }  # fmt: skip
    survey = survey_source(Source(path=f"{tmp_path}/in/*.jpg"))
    assert survey and survey.names == {HIDDEN: [".b.jpg"]}
    write(tmp_path / "in" / "c", {"l.csv": b"url,caption\nhttp://a/1,one\n"})
    survey = survey_source(Source(path=f"{tmp_path}/in/*/l.csv"))
    assert survey and survey.names == {LINKED: ["link"]}


# Public reports on other programs.


def test_spaces_and_dots_in_the_names_of_a_tar(tmp_path: Path, jpeg: bytes) -> None:
    """webdataset 237 and 288, datasets 7144: the key of a sample was cut at the first dot."""
    names = ["./235342 Track 2.0 (Clean Version)", "train.v1/0001", "S_02/S_02_4001_VE1.wav", "22.05"]
    members = [m for n in names for m in ((f"{n}.jpg", jpeg), (f"{n}.txt", n.encode()))]
    assert outcomes(rows_of(write_tar(tmp_path / "a.tar", members))) == names


def test_members_that_are_not_adjacent(tmp_path: Path, jpeg: bytes) -> None:
    """webdataset 140 and 407, Ray 44068: half samples, and nobody said so."""
    members = [(f"{i}.jpg", jpeg) for i in range(3)] + [(f"{i}.txt", b"text") for i in range(3)]
    with pytest.raises(
        SourceError, match="the members of a sample stand together, as when packed sorted by name"
    ):
        rows_of(write_tar(tmp_path / "a.tar", members))
    more = [("9.jpg", jpeg), ("9.txt", b"nine")]
    rows = rows_of(write_tar(tmp_path / "a.tar", [*members, *more]))
    assert outcomes(rows) == ["bad_caption"] * 3 + ["bad_row"] * 3 + ["nine"]


def test_a_name_twice_in_a_tar(tmp_path: Path, jpeg: bytes) -> None:
    """webdataset 157 and 286: an error in the middle of an epoch."""
    sample = [("a.jpg", jpeg), ("a.txt", b"one"), ("a.jpg", jpeg + b"!"), ("a.txt", b"two")]
    assert outcomes(rows_of(write_tar(tmp_path / "a.tar", sample))) == ["one", "two"]


def test_equal_names_in_several_folders_and_upper_case(tmp_path: Path, jpeg: bytes) -> None:
    """clip-retrieval 321, kohya_ss 217, datasets 4514: images were lost by their name."""
    files = {f"{folder}/IMG_1.{suffix}": jpeg for folder in "ab" for suffix in ("JPG", "pNg")}
    captions = {f"{folder}/IMG_1.txt": folder.encode() for folder in "ab"}
    assert outcomes(rows_of(write(tmp_path, files | captions))) == ["a", "a", "b", "b"]


def test_a_suffix_within_the_path(tmp_path: Path, jpeg: bytes) -> None:
    """ComfyUI 16213: the suffix was replaced wherever it stood in the path."""
    files = {"train.png/photo.png": jpeg, "train.png/photo.txt": b"red"}
    more = {"photo.png.crop.png": jpeg, "photo.png.crop.txt": b"crop"}
    assert outcomes(rows_of(write(tmp_path, files | more))) == ["crop", "red"]


@pytest.mark.parametrize("suffix", [".txt", ".caption"])
def test_caption_files_need_no_setting(tmp_path: Path, jpeg: bytes, suffix: str) -> None:
    """kohya_ss 988 and 1370: "no caption file found for 758 images", and training went on."""
    assert outcomes(rows_of(write(tmp_path, {"a.jpg": jpeg, f"a{suffix}": b"a"}))) == ["a"]


def test_what_an_interrupted_img2dataset_leaves(tmp_path: Path) -> None:
    """img2dataset 164: tars that end in the middle, whose tables were not written."""
    out = tmp_path / "out"
    shutil.copytree(IMG2DATASET / "webdataset", out)
    whole = (out / "00000.tar").read_bytes()
    (out / "00002.tar").write_bytes(whole[:2000])
    rows: list[dict[str, Any]] = rows_of(out)
    broken = [row for row in rows if row["error"] == "bad_row"]
    assert len(broken) == 1 and "00002.tar: the archive is cut short" in broken[0]["detail"]
