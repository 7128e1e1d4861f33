import io
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from rasterloom import schema
from rasterloom.filtering.scorers import registry
from rasterloom.filtering.scorers.base import Batch, floats
from rasterloom.filtering.scorers.quality import load_photographs, niqe
from rasterloom.filtering.scorers.registry import decode, identity, make_scorers, score_columns, score_shard
from rasterloom.recipe.filtering import Score


def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def images(*pictures: bytes | None, captions: list[str | None] | None = None) -> pa.Table:
    rows = [
        {
            "key": f"{i:032x}",
            "shard": 4,
            "caption": captions[i] if captions else None,
            "status": "failed" if picture is None else "ok",
            "image": picture,
        }
        for i, picture in enumerate(pictures)
    ]
    return pa.Table.from_pylist(rows, schema=schema.IMAGES)


def noise(height: int = 96, width: int = 96, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_scores_of_a_shard() -> None:
    plain = np.full((96, 96, 3), 200, np.uint8)
    table = images(encode(noise()), None, encode(plain), encode(noise(20, 30)), encode(noise(seed=1)))
    result = score_shard(table, make_scorers([Score(name="quality"), Score(name="flatness")]))
    floats = [pa.field(name, pa.float64()) for name in ("quality", "niqe", "flatness")]
    assert result.schema == pa.schema([*schema.SCORES, *floats])
    assert result["key"].equals(table["key"])
    assert result["shard"].to_pylist() == [4] * 5
    assert [v is None for v in result["niqe"].to_pylist()] == [False, True, True, True, False]
    assert [v is None for v in result["quality"].to_pylist()] == [False, True, True, True, False]
    assert result["flatness"].to_pylist() == [0, None, 1, 0, 0]
    assert result["niqe"][0].as_py() == niqe(noise())
    assert result["niqe"][4].as_py() == niqe(noise(seed=1))


def test_quality_is_half_at_the_niqe_of_a_middling_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    median = load_photographs().median
    monkeypatch.setattr(registry, "niqe", lambda image: float(image[0, 0, 0]) * median)
    pixels = [np.full((1, 1, 3), n, np.uint8) for n in (0, 1, 2)]
    scored = make_scorers([Score(name="quality")])[0](Batch(pixels, [None] * 3))
    np.testing.assert_allclose(scored["quality"], [1, 0.5, 0.25])


def test_no_scorers_and_no_rows() -> None:
    table = images(encode(noise()), None)
    assert score_shard(table, []).equals(table.select(["key", "shard"]).cast(schema.SCORES))
    assert score_shard(images(), make_scorers([Score(name="quality")])).column_names == [
        "key",
        "shard",
        "quality",
        "niqe",
    ]


class Typed:
    """Gives every kind of column, with what it cannot say."""

    name, version, digest, sees = "typed", "1", "", False
    columns: ClassVar = {
        "word": pa.string(),
        "truth": pa.bool_(),
        "number": pa.float64(),
        "vector": pa.list_(pa.field("element", pa.float32())),
    }

    def __call__(self, batch: Batch) -> dict[str, object]:
        assert batch.images == []
        none = [c is None for c in batch.captions]
        return {
            "word": batch.captions,
            "truth": [None if n else len(c) > 1 for n, c in zip(none, batch.captions, strict=True)],
            "number": np.where(none, np.nan, 1.5),
            "vector": np.where(np.array(none)[:, None], np.nan, [[1, 2]]),
        }


def test_columns_of_any_kind_and_images_that_nobody_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BATCH_ROWS", 2)
    table = images(b"never decoded", None, b"x", b"y", captions=["a", "b", None, "ccc"])
    result = score_shard(table, [Typed()])
    assert result.schema.field("vector").type == Typed.columns["vector"]
    assert result["word"].to_pylist() == ["a", None, None, "ccc"]
    assert result["truth"].to_pylist() == [False, None, None, True]
    assert result["number"].to_pylist() == [1.5, None, None, 1.5]
    assert result["vector"].to_pylist() == [[1, 2], None, None, [1, 2]]
    nothing = score_shard(images(None, None), [Typed()])
    assert nothing["vector"].to_pylist() == [None, None]


class Recorder:
    """Gives each picture its first value, and keeps what it was called with."""

    name, version, digest, columns, sees = "recorder", "1", "", floats("first"), True

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[str | None]]] = []

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        assert all(i.dtype == np.uint8 and i.ndim == 3 and i.shape[2] == 3 for i in batch.images)
        self.calls.append((len(batch.images), batch.captions))
        return {"first": np.array([i[0, 0, 0] for i in batch.images], np.float64)}


def test_images_come_in_batches_with_their_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [None if n % 7 == 3 else encode(np.full((2, 2, 3), n, np.uint8)) for n in range(200)]
    captions = [f"number {n}" for n in range(200)]
    table = pa.concat_tables([images(*pictures, captions=captions)]).combine_chunks()
    table = pa.concat_tables([table.slice(0, 30), table.slice(30)])
    recorder = Recorder()
    expected = [None if n % 7 == 3 else float(n) for n in range(200)]
    assert score_shard(table, [recorder])["first"].to_pylist() == expected
    assert max(n for n, _ in recorder.calls) == registry.BATCH_ROWS
    assert [c for _, cs in recorder.calls for c in cs] == [c for n, c in enumerate(captions) if n % 7 != 3]

    monkeypatch.setattr(registry, "BATCH_PIXELS", 10)
    recorder = Recorder()
    assert score_shard(table, [recorder])["first"].to_pylist() == expected
    assert max(n for n, _ in recorder.calls) == 3  # 12 pixels


class Fed(Recorder):
    """Waits, while it has a batch, until an image of the next is decoded."""

    feeders = 2

    def __init__(self, decoded: list[str], last: int) -> None:
        super().__init__()
        self.decoded, self.last, self.waited = decoded, last, []
        self.more = threading.Condition()

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        found = super().__call__(batch)
        done = sum(n for n, _ in self.calls)
        with self.more:
            wanted = min(done + 1, self.last)
            self.waited.append(self.more.wait_for(lambda: len(self.decoded) >= wanted, timeout=30))
        return found


def test_threads_decode_the_next_batch_while_a_scorer_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BATCH_ROWS", 8)
    pictures = [None if n % 7 == 3 else encode(noise(80, 100, n)) for n in range(60)]
    pictures[20] = b"not a picture"
    table = images(*pictures, captions=[f"number {n}" for n in range(60)])
    done: list[str] = []
    there = sum(picture is not None for picture in pictures)
    plain, fed = Recorder(), Fed(done, there)

    def noted(data: bytes, key: str) -> np.ndarray | None:
        image = decode(data, key)
        with fed.more:
            done.append(key)
            fed.more.notify_all()
        return image

    per_image = make_scorers([Score(name="quality"), Score(name="flatness")])
    expected = score_shard(table, [plain, *per_image])
    monkeypatch.setattr(registry, "decode", noted)
    assert score_shard(table, [fed, *per_image]).equals(expected)
    assert fed.calls == plain.calls  # the same batches, in the same order
    assert len(fed.waited) > 5 and all(fed.waited)


def test_threads_decode_no_more_ahead_than_a_batch_has_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BATCH_PIXELS", 3 * 1000)
    taken, most = 0, 0

    def counted(data: bytes, key: str) -> np.ndarray:
        nonlocal taken
        taken += 1
        return np.zeros((20, 50, 3), np.uint8)

    class Counting(Recorder):
        feeders = 2

        def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
            nonlocal most
            found = super().__call__(batch)
            most = max(most, taken - sum(n for n, _ in self.calls))
            return found

    monkeypatch.setattr(registry, "decode", counted)
    table = images(*[encode(noise(20, 50, seed)) for seed in range(30)])
    for name, value in (("width", 50), ("height", 20)):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array([value] * 30, pa.int32()))
    scorer = Counting()
    score_shard(table, [scorer])
    assert sum(n for n, _ in scorer.calls) == 30
    assert most <= 3


def test_transparent_images_lie_on_white() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[0, 1] = (0, 0, 0, 51)  # a fifth of black
    decoded = decode(encode(pixels), "key")
    assert decoded is not None
    assert decoded.tolist() == [[[10, 20, 30], [204, 204, 204]], [[255] * 3, [255] * 3]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "I;16"])
def test_images_of_any_mode_become_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    kind = "TIFF" if mode == "CMYK" else "PNG"
    Image.new(mode, (5, 4), 0 if mode != "LA" else (0, 255)).save(buffer, kind)
    decoded = decode(buffer.getvalue(), "key")
    assert decoded is not None
    assert decoded.shape == (4, 5, 3)


def test_a_broken_image_has_no_scores_and_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    whole = encode(noise(), "JPEG")
    table = images(whole[:200], b"", b"not a picture", whole)
    result = score_shard(table, make_scorers([Score(name="flatness")]))
    assert result["flatness"].to_pylist() == [None, None, None, 0]
    assert "of 00000000000000000000000000000001 cannot be decoded" in caplog.text


def test_wrong_scores_are_refused(tmp_path: Path) -> None:
    for config, message in [
        (
            Score(name="beauty"),
            "unknown scorer 'beauty'; known: quality, flatness, aesthetic, clip, classify, nsfw, text_area",
        ),
        (Score(name="quality", options={"size": 3}), "the score quality has no option 'size'; known: none"),
        (
            Score(name="aesthetic", options={"hed": "x"}),
            "has no option 'hed'; did you mean head. known: head, clip, revision, keep",
        ),
        (Score(name="aesthetic"), "the score aesthetic needs the option 'head'"),
        (Score(name="aesthetic", options={"head": 3}), "'head' of the score aesthetic takes text .got 3"),
        (Score(name="clip", options={"revision": 3}), "'revision' of the score clip takes text .got 3"),
        (Score(name="clip", options={"keep_embeddings": "yes"}), "takes true or false .got 'yes'"),
        (Score(name="text_area", options={"max_side": True}), "takes a whole number .got True"),
        (
            Score(name="aesthetic", options={"head": str(tmp_path / "x.pth")}),
            "no aesthetic head at .*x.pth: give",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            make_scorers([config])
    with pytest.raises(ValueError, match="quality is named twice"):
        make_scorers([Score(name="quality"), Score(name="quality")])


def test_identity_names_version_and_digest(tmp_path: Path) -> None:
    head = tmp_path / "head.pth"
    head.write_bytes(b"one")
    configs = [
        Score(name="quality"),
        Score(name="flatness"),
        Score(name="aesthetic", options={"head": str(head)}),
    ]
    first = identity(configs)
    assert list(first) == ["quality", "flatness", "aesthetic"]
    assert first["flatness"] == "1"
    assert first["quality"].startswith("1:")
    assert identity(configs) == first
    head.write_bytes(b"two")
    second = identity(configs)
    assert second["aesthetic"] != first["aesthetic"]
    assert second["quality"] == first["quality"]


def test_columns_are_those_of_the_scorers() -> None:
    configs = [
        Score(name="language"),
        Score(name="quality"),
        Score(name="clip", options={"keep_embeddings": True}),
    ]
    assert {field.name: str(field.type) for field in score_columns(configs)} == {
        "language": "string",
        "language_confidence": "double",
        "quality": "double",
        "niqe": "double",
        "clip": "double",
        "clip_embedding": "list<element: float>",
        "clip_text_embedding": "list<element: float>",
    }


def test_light_commands_do_not_import_torch(tmp_path: Path) -> None:
    (tmp_path / "head.pth").write_bytes(b"")
    code = f"""
import sys
from rasterloom.filtering.selection import check_rule
from rasterloom.filtering.scorers.registry import identity
from rasterloom.recipe.filtering import Score
names = ("quality", "clip", "nsfw", "text_area", "language", "caption")
head = Score(name="aesthetic", options={{"head": {str(tmp_path / "head.pth")!r}}})
identity([*(Score(name=name) for name in names), head])
heavy = {{"torch", "transformers", "ray", "onnxruntime", "rapidocr", "fasttext"}}
assert not heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
