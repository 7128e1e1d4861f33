"""What a page takes from a folder that training left."""

from rasterloom.pipelines.training.result_folder import shown_folder
from rasterloom.storage.store import Store
from rasterloom.versions.corpus import Corpus


def test_from_s3_only_what_is_small_comes_and_it_is_fresh(s3, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = Store(f"{s3}/shown")
    place = "little/files/train/1-64/cafe"
    for name in ("metrics.jsonl", "samples/step-1-0.png", "model/model.safetensors", "checkpoints/1/x"):
        store.put(f"{place}/{name}", name.encode())
    for more in ("evaluation.json", "result.json"):
        folder = shown_folder(Corpus("little", store), "train/1-64", "cafe")
        assert (folder / "metrics.jsonl").read_text() == "metrics.jsonl"
        assert (folder / "samples" / "step-1-0.png").exists() and not (folder / "model").exists()
        assert not (folder / more).exists()
        store.put(f"{place}/{more}", b"{}")
    assert (shown_folder(Corpus("little", store), "train/1-64", "cafe") / "evaluation.json").exists()
