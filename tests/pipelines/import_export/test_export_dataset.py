"""An exported corpus is read by those whom it is for."""

import io
import json
import tarfile

import pyarrow.parquet as pq
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def kept(undisturbed):
    return {row["key"] for row in undisturbed.rows("selection") if row["kept"]}


def test_a_hugging_face_data_set(rasterloom, undisturbed, kept, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    folder = tmp_path / "out"
    code, printed, _ = rasterloom("versions", "export", undisturbed.recipe_file, folder)
    assert code == 0 and f"{len(kept):,} samples: {folder}" in printed
    data = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(data["key"]) == kept
    images = {row["key"]: row for row in undisturbed.rows("images")}
    for row in data.select(range(0, len(data), 7)):
        assert row["image"].size == (row["width"], row["height"])
        assert row["caption"] == images[row["key"]]["caption"]
        assert isinstance(row["flatness"], float) and row["source"]
    card = (folder / "README.md").read_text()
    assert f"{len(kept):,} samples" in card and "min_side >= 64" in card and "blocked_address" in card
    records = json.loads((folder / "export.json").read_text())
    assert records["selection"]["snapshot"] == undisturbed.corpus.snapshot_id("selection")


def test_webdataset(rasterloom, undisturbed, kept, tmp_path):
    folder = tmp_path / "out"
    assert rasterloom("versions", "export", undisturbed.recipe_file, folder, "--as", "webdataset")[0] == 0
    found: dict[str, dict[str, bytes]] = {}
    for path in (folder / "data").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                found.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    assert found.keys() == kept
    for parts in found.values():
        row = json.loads(parts["json"])
        (picture,) = (data for suffix, data in parts.items() if suffix not in ("json", "txt"))
        assert Image.open(io.BytesIO(picture)).size == (row["width"], row["height"])
        assert parts["txt"].decode() == row["caption"]
    code, _, _ = rasterloom(
        "versions", "export", undisturbed.recipe_file, tmp_path / "files", "--as", "files"
    )
    assert code == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "files" / "data").glob("*/*")}
    assert files == {f"{key}.{suffix}": data for key, all_ in found.items() for suffix, data in all_.items()}


def test_parquet_in_files_of_a_size(undisturbed, kept, tmp_path):
    from rasterloom.pipelines.import_export.export_dataset import export
    from rasterloom.pipelines.import_export.export_formats import Form

    card = export(undisturbed.corpus, tmp_path / "out", Form.PARQUET, file_bytes=100_000)
    files = sorted((tmp_path / "out" / "data").glob("*.parquet"))
    assert len(files) > 1 and card.rows == len(kept)
    assert {key for file in files for key in pq.read_table(file)["key"].to_pylist()} == kept


def test_what_cannot_be_exported(rasterloom, undisturbed, tmp_path):
    (tmp_path / "something").write_text("")
    code, _, error = rasterloom("versions", "export", undisturbed.recipe_file, tmp_path)
    assert code == 2 and "is not empty" in error
    code, _, error = rasterloom("versions", "export", undisturbed.recipe_file, tmp_path / "x", "--at", "v9")
    assert code == 2 and "no branch, tag or snapshot v9" in error
