"""Paths, folders, globs and lists, and when a source counts as the same."""

import os
from pathlib import Path

import pytest

from rasterloom.errors import SourceError
from rasterloom.recipe.sources import Source
from rasterloom.sources import files as files_module
from rasterloom.sources.files import digest_of, find_files
from rasterloom.sources.pairs import read_sources


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/1.csv", "a/2.csv", "a/deep/3.csv", "b/4.csv", "b/.hidden.csv", "b/note.txt", "[x]/5.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"url,caption\nhttp://a/{name},caption\n")
    return tmp_path


def names(*paths: object) -> tuple[str, list[str]]:
    found = find_files(Source(path=tuple(map(str, paths))))
    return found.store.root, [entry.name for entry in found.entries()]


def test_which_files_a_path_means(tree: Path) -> None:
    assert names(tree / "a") == (f"{tree}/a", ["1.csv", "2.csv", "deep/3.csv"])
    assert names(f"{tree}/a/") == (f"{tree}/a", ["1.csv", "2.csv", "deep/3.csv"])
    assert names(tree / "a/1.csv") == (f"{tree}/a", ["1.csv"])
    assert names(tree / "a/*.csv") == (f"{tree}/a", ["1.csv", "2.csv"])
    assert names(tree / "a/**/*.csv") == (f"{tree}/a", ["1.csv", "2.csv", "deep/3.csv"])
    assert names(tree / "*/[!13-9].csv") == (str(tree), ["a/2.csv"])
    assert names(tree / "[x]/5.csv") == (f"{tree}/[x]", ["5.csv"])  # a file of that name goes before a glob
    assert names(tree / "b/4.csv", tree / "a/?.csv") == (str(tree), ["b/4.csv", "a/1.csv", "a/2.csv"])
    assert names(tree / "b/.hidden.csv") == (f"{tree}/b", [".hidden.csv"])


def test_a_link_to_a_folder_is_not_followed(tree: Path) -> None:
    (tree / "a" / "loop").symlink_to(tree)
    assert names(tree / "a")[1] == ["1.csv", "2.csv", "deep/3.csv"]


def test_rows_of_many_files_are_those_of_one_source(tree: Path) -> None:
    pairs, counts = read_sources([Source(path=f"{tree}/**/*.csv", name="all")])
    assert counts["pairs"] == 5 and set(pairs["source"].to_pylist()) == {"all"}


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (("{}/a/9.csv",), "no such file"),
        (("{}/nothing/*.csv",), "no such file"),
        (("{}/a/*.parquet",), "no files there"),
        (("nosuch://host/a.csv",), "cannot be opened: Protocol not known"),
        (("{}/a/1.csv", "s3://bucket/a.csv"), "cannot be mixed"),
        (("{}/b", "{}/nowhere"), "no such file"),
    ],
)
def test_what_is_not_there(tree: Path, paths: tuple[str, ...], words: str) -> None:
    from rasterloom.sources.pairs import check_sources

    with pytest.raises(SourceError, match=words) as caught:
        check_sources([Source(path=tuple(path.format(tree) for path in paths))])
    assert "\n" not in str(caught.value)


def digest(*paths: object) -> str:
    return digest_of(find_files(Source(path=tuple(map(str, paths)))))


def test_a_source_is_what_it_holds_and_not_where_it_lies(tree: Path) -> None:
    before, one = digest(tree / "a"), digest(tree / "a/1.csv")
    (tree / "a").rename(tree / "moved")
    os.utime(tree / "moved/1.csv")
    assert digest(tree / "moved") == before
    (tree / "moved/1.csv").rename(tree / "moved/one.csv")
    assert digest(tree / "moved/one.csv") == one
    assert digest(tree / "moved") != before  # within a folder, names count: locators are made of them
    (tree / "moved/one.csv").rename(tree / "moved/1.csv")
    assert digest(tree / "moved") == before
    (tree / "moved/2.csv").write_text("url,caption\nhttp://a/other,caption\n")
    assert digest(tree / "moved") != before


def test_a_large_source_is_known_by_its_listing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "CONTENT_BYTES", 50)
    before = digest(tree / "a")
    (tree / "a").rename(tree / "moved")
    assert digest(tree / "moved") == before
    os.utime(tree / "moved/1.csv", ns=(0, 0))
    assert digest(tree / "moved") != before


def test_a_part_of_a_path_that_exists_is_no_pattern(tmp_path: Path) -> None:
    for name in (
        "shoot [2020]/1.csv",
        "shoot [2020]/x[1]/2.csv",
        "shoot 2/3.csv",
        "who?/4.csv",
        "whom/5.csv",
        "*/6.csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("url\n")
    shoot = f"{tmp_path}/shoot [2020]"
    assert names(f"{shoot}/*.csv") == (shoot, ["1.csv"])
    assert names(f"{shoot}/x[1]/[2-3].csv") == (f"{shoot}/x[1]", ["2.csv"])
    assert names(f"{shoot}/**/*.csv") == (shoot, ["1.csv", "x[1]/2.csv"])
    assert names(f"{tmp_path}/who?/*.csv") == (f"{tmp_path}/who?", ["4.csv"])
    assert names(f"{tmp_path}/*/*.csv") == (f"{tmp_path}/*", ["6.csv"])
    assert names(f"{tmp_path}/shoot [[]202?]/*.csv") == (str(tmp_path), ["shoot [2020]/1.csv"])
    assert names(f"{tmp_path}/shoot [12]/*.csv") == (str(tmp_path), ["shoot 2/3.csv"])
    both = names(f"{shoot}/*.csv", f"{tmp_path}/who?/4.csv")  # below a folder of several paths
    assert both == (str(tmp_path), ["shoot [2020]/1.csv", "who?/4.csv"])
    with pytest.raises(SourceError, match=r"shoot \[2020\]/\*.parquet: no files there"):
        digest_of(find_files(Source(path=f"{shoot}/*.parquet")))
