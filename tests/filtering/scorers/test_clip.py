import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rasterloom.filtering.scorers import clip as clip_module
from rasterloom.filtering.scorers.aesthetic import AestheticScorer
from rasterloom.filtering.scorers.base import Batch
from rasterloom.filtering.scorers.clip import Clip, ClipScorer, open_clip
from rasterloom.filtering.scorers.registry import score_shard

CAPTIONS = ["a cat", "the quick brown fox jumps over the lazy dog " * 9, None, "", "a cat"]


def pictures(n: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (30 + i, 60 - i, 3), dtype=np.uint8) for i in range(n)]


def test_the_score_is_the_cosine_that_transformers_gives(clip: Path) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    scores = ClipScorer(str(clip))(Batch(pictures(), CAPTIONS))["clip"]
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPImageProcessorPil.from_pretrained(clip)
    tokenizer = AutoTokenizer.from_pretrained(clip)
    for row, (picture, caption) in enumerate(zip(pictures(), CAPTIONS, strict=True)):
        if not caption:
            assert np.isnan(scores[row])
            continue
        pixels = processor([picture], return_tensors="pt", input_data_format="channels_last")
        words = tokenizer([caption], return_tensors="pt", truncation=True, max_length=16)
        with torch.no_grad():
            both = model(**words, **pixels)  # alone, so that no padding is looked at
            expected = float(both.logits_per_image[0, 0] / model.logit_scale.exp())
        assert scores[row] == pytest.approx(expected, abs=1e-5)
    assert scores[0] != pytest.approx(scores[4], abs=1e-4)  # one caption, two pictures


def test_no_images(clip: Path) -> None:
    found = ClipScorer(str(clip), keep_embeddings=True)(Batch([], []))
    assert found["clip"].shape == (0,)
    assert found["clip_embedding"].shape == (0, 24)


def test_clip_and_aesthetic_run_the_tower_once(clip: Path, tmp_path: Path) -> None:
    torch.save(nn.Linear(24, 1).state_dict(), tmp_path / "head.pth")
    scorers = [
        ClipScorer(str(clip)),
        AestheticScorer(str(tmp_path / "head.pth"), str(clip), keep_embeddings=True),
    ]
    model, _ = scorers[0].clip._model
    calls = []
    hook = model.vision_model.register_forward_hook(lambda *_: calls.append(1))
    try:
        batch = Batch(pictures(), CAPTIONS)
        first, second = (scorer(batch) for scorer in scorers)
    finally:
        hook.remove()
    assert len(calls) == 1
    assert second["aesthetic_embedding"] is first["clip_embedding"]
    assert "aesthetic_embedding" in scorers[1].columns and "clip_embedding" not in scorers[0].columns


def test_kept_embeddings_have_length_1_and_stand_in_their_rows(clip: Path) -> None:
    import io

    import pyarrow as pa
    from PIL import Image

    from rasterloom import schema

    buffer = io.BytesIO()
    Image.fromarray(pictures()[0]).save(buffer, "PNG")
    rows = [
        {"key": "a", "shard": 0, "image": buffer.getvalue(), "caption": "a cat"},
        {"key": "b", "shard": 0, "image": None, "caption": "a cat"},
        {"key": "c", "shard": 0, "image": buffer.getvalue(), "caption": None},
    ]
    table = pa.Table.from_pylist(rows, schema=schema.IMAGES)
    found = score_shard(table, [ClipScorer(str(clip), keep_embeddings=True)]).to_pylist()
    assert [len(row["clip_embedding"] or []) for row in found] == [24, 0, 24]
    assert [len(row["clip_text_embedding"] or []) for row in found] == [24, 0, 0]
    assert np.linalg.norm(found[0]["clip_embedding"]) == pytest.approx(1, abs=1e-5)
    dot = np.dot(found[0]["clip_embedding"], found[0]["clip_text_embedding"])
    assert found[0]["clip"] == pytest.approx(dot, abs=1e-6)


def test_batches_are_halved_when_the_gpu_is_full(
    clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A forward pass that can take three pictures, and raises torch's own error for more."""
    scorer = ClipScorer(str(clip))
    monkeypatch.setattr(clip_module, "BATCH", 8)
    whole = scorer.clip.embed_images(pictures(11))
    model, _ = scorer.clip._model
    sizes = []

    def full(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    hook = model.vision_model.register_forward_pre_hook(full)
    try:
        with caplog.at_level(logging.WARNING):
            halved = scorer.clip.embed_images(pictures(11))
    finally:
        hook.remove()
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1]
    np.testing.assert_allclose(halved, whole, atol=1e-6)
    assert "does not hold 8 images or captions at once: 2" in caplog.text


def test_one_checkpoint_is_opened_once(clip: Path) -> None:
    assert open_clip(str(clip), None) is ClipScorer(str(clip)).clip
    assert open_clip(str(clip), "v1") is not ClipScorer(str(clip)).clip


def test_a_checkpoint_without_a_tokenizer_says_so(clip: Path, tmp_path: Path) -> None:
    for file in clip.iterdir():
        if "token" not in file.name and "vocab" not in file.name and "merges" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"cannot load the CLIP .*give `clip:` a folder .*tokenizer"):
        ClipScorer(str(tmp_path))(Batch(pictures(1), ["a"]))


def test_images_are_prepared_in_threads_for_a_gpu_as_they_are_without(clip: Path) -> None:
    _, processor = open_clip(str(clip), None)._model
    plain, threaded = (clip_module._pixels(processor, pictures(9), threads) for threads in (1, 4))
    assert torch.equal(plain, threaded)


def as_on_a_gpu(clip: Path) -> ClipScorer:
    """A scorer that goes a GPU's way on this processor, which has bf16 as well."""
    scorer = ClipScorer(str(clip), keep_embeddings=True)
    scorer.clip = Clip(str(clip), None)
    scorer.clip.on_gpu = scorer.clip.halves = True
    return scorer


def test_a_gpus_scores_are_a_cpus_but_for_bf16_and_in_their_order(clip: Path) -> None:
    batch = Batch(pictures(40), ["a cat", "the dog", None, "quick fox"] * 10)
    plain, halved = ClipScorer(str(clip), keep_embeddings=True)(batch), as_on_a_gpu(clip)(batch)
    for name in ("clip_embedding", "clip_text_embedding"):
        assert halved[name].dtype == np.float32
        cosines = (plain[name] * halved[name]).sum(axis=1)
        assert np.nanmin(cosines) > 0.9995
        assert np.nanmax(np.abs(np.linalg.norm(halved[name], axis=1) - 1)) < 1e-6
        assert not np.array_equal(plain[name], halved[name], equal_nan=True)  # bf16 it was
    assert np.array_equal(np.isnan(plain["clip"]), np.isnan(halved["clip"]))
    np.testing.assert_allclose(halved["clip"], plain["clip"], atol=0.01)


def test_a_gpu_has_large_batches_that_are_halved_once(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    scorer = as_on_a_gpu(clip)
    model, _ = scorer.clip._model
    sizes, many = [], pictures(20) * 15

    def full(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 70:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    whole = scorer.clip.embed_images(many)
    model.vision_model.register_forward_pre_hook(full)
    with caplog.at_level(logging.WARNING):
        halved = [scorer.clip.embed_images(many) for _ in range(2)]
    assert sizes == [256, 128, 64, 64, 64, 64, 44, 64, 64, 64, 64, 44]
    np.testing.assert_allclose(halved[0], whole, atol=0.01)
    np.testing.assert_array_equal(halved[0], halved[1])
    (told,) = caplog.records
    assert "does not hold 256 images or captions at once: 64" in told.getMessage()


def test_what_feeds_a_gpu_is_as_many_threads_as_it_has_cpus(clip: Path, tmp_path: Path) -> None:
    torch.save(nn.Linear(24, 1).state_dict(), tmp_path / "head.pth")
    aesthetic = AestheticScorer(str(tmp_path / "head.pth"), str(clip))
    assert ClipScorer(str(clip)).feeders == aesthetic.feeders == 1  # a CPU's worker has one core
    aesthetic.clip = as_on_a_gpu(clip).clip
    assert as_on_a_gpu(clip).feeders == aesthetic.feeders == torch.get_num_threads()
