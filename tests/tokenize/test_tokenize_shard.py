import io
import re

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import IMAGES, TOKENS, pair_key
from rasterloom.tokenize import tokenize_shard as tokenize_module
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.crop import apply_crop, plan_crop, seed_of
from rasterloom.tokenize.profiles import CHAMELEON, MINI
from rasterloom.tokenize.prompt_templates import t2i_prompt
from rasterloom.tokenize.text_tokenizer import JsonText, train_text
from rasterloom.tokenize.tokenize_shard import tokenize_shard
from rasterloom.tokenize.unirep import unframe

TEXT = JsonText(train_text(["a noisy picture", "a wide one"], 300), MINI.text0)
CONFIG = Tokenize(text_vocab=300, batch=3)
SIZES = [(64, 64), (200, 130), (130, 200), (400, 100), (100, 400), (64, 64), (65, 64), (90, 91), (300, 299)]


class BlockCodec:
    """The mean colour of each block of 8 x 8 pixels, in 4 + 3 + 3 bits: 1,024 codes."""

    def __init__(self):
        self.batches = []

    def encode(self, images):
        self.batches.append(images.shape)
        n, height, width, _ = images.shape
        means = images.reshape(n, height // 8, 8, width // 8, 8, 3).mean((2, 4)).astype(np.int32)
        return (means[..., 0] >> 4 << 6) + (means[..., 1] >> 5 << 3) + (means[..., 2] >> 5)


def noise(size, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def saved(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def table(rows):
    defaults = dict.fromkeys(IMAGES.names)
    return pa.Table.from_pylist([defaults | {"shard": 0, "status": "ok"} | row for row in rows], IMAGES)


def rows_of(sizes=SIZES):
    return [
        {"key": pair_key(f"u{n}", "c"), "caption": f"picture {n}", "image": saved(noise(size, n))}
        for n, size in enumerate(sizes)
    ]


def run(rows, config=CONFIG, **options):
    options = {"target": 64, "codec": BlockCodec(), "text": TEXT, "scores": None} | options
    return tokenize_shard(table(rows), options.pop("scores"), config=config, **options)


def test_each_row_is_its_image_cropped_and_framed():
    rows = rows_of()
    tokens, failures = run(rows)
    assert tokens.schema == TOKENS
    tokens.validate(full=True)
    assert len(failures) == 0 and len(tokens) == len(rows)
    by_key = {row["key"]: row for row in rows}
    for row in tokens.to_pylist():
        source = by_key[row["key"]]
        image = Image.open(io.BytesIO(source["image"]))
        plan = plan_crop(image.size, bucket_sizes(64), seed=seed_of(row["key"]))
        codes = BlockCodec().encode(np.asarray(apply_crop(image, plan))[None])[0]
        (start, end) = row["loss_spans"]
        ids = row["input_ids"]
        np.testing.assert_array_equal(unframe(ids[start : end - 1], MINI), codes)
        assert end == len(ids) == row["n_tokens"]
        assert ids[0] == MINI.bos and ids[start - 1] == ids[-1] == MINI.sep
        assert TEXT.decode(ids[1 : start - 1]) == t2i_prompt(*plan.bucket, source["caption"])
        assert (row["width"], row["height"]) == plan.bucket
        assert row["bucket"] == f"{row['width']}x{row['height']}"
        assert (row["target"], row["task"], row["caption"]) == (64, "t2i", source["caption"])
        assert row["quality"] is row["aesthetic"] is row["clip"] is None


def test_rows_are_sorted_and_do_not_depend_on_their_order():
    rows = rows_of()
    tokens, _ = run(rows)
    pairs = list(zip(tokens["bucket"].to_pylist(), tokens["key"].to_pylist(), strict=True))
    assert pairs == sorted(pairs)
    assert run(rows[::-1])[0].equals(tokens)


def test_batches_hold_one_bucket_and_keep_to_their_size():
    codec = BlockCodec()
    tokens, _ = run(rows_of([(64, 64)] * 7 + [(128, 32)]), codec=codec)
    assert sorted(codec.batches) == [(1, 32, 128, 3), (1, 64, 64, 3), (3, 64, 64, 3), (3, 64, 64, 3)]
    assert len(tokens) == 8


def test_a_codec_on_a_gpu_is_fed_by_as_many_threads_as_it_names(monkeypatch):
    pools, pool = [], tokenize_module.ThreadPoolExecutor
    monkeypatch.setattr(
        tokenize_module, "ThreadPoolExecutor", lambda threads: pools.append(threads) or pool(threads)
    )
    plain, fed = BlockCodec(), BlockCodec()
    fed.feeders = 7
    assert run(rows_of(), codec=plain).tokens.equals(run(rows_of(), codec=fed).tokens)
    assert pools == [2, 7]


def test_a_codec_on_a_gpu_has_the_next_batch_before_it_is_asked_for_codes():
    told = []

    class Begun(BlockCodec):
        def begin(self, images):
            number = len(self.batches)
            codes = self.encode(images)
            told.append(("begun", number))

            def wait():
                told.append(("asked", number))
                return codes

            return wait

    rows = rows_of([(64, 64)] * 8 + [(128, 32)])
    rows[4]["image"] = rows[4]["image"][:60]  # broken within
    plain, begun = run(rows, codec=BlockCodec()), run(rows, codec=Begun())
    assert begun.tokens.equals(plain.tokens) and begun.failures.equals(plain.failures)
    assert len(begun.failures) == 1
    kinds = "begun", "begun", "asked", "begun", "asked", "begun", "asked", "asked"
    assert [kind for kind, _ in told] == list(kinds)
    assert [number for kind, number in told if kind == "asked"] == [0, 1, 2, 3]


def test_the_batch_size_changes_nothing():
    rows = rows_of()
    one, many = (run(rows, Tokenize(text_vocab=300, batch=batch))[0] for batch in (1, 100))
    assert one.equals(many)


def test_crops_follow_key_and_seed_or_the_middle():
    rows = rows_of([(300, 64)] * 6)
    for n, row in enumerate(rows):
        row["image"] = rows[0]["image"]
        row["key"] = pair_key(str(n), "")

    def crops(**options):
        tokens, _ = run(rows, Tokenize(text_vocab=300, max_cut=1, **options), target=32)
        return [row["input_ids"][-22:] for row in tokens.to_pylist()]

    assert len({tuple(ids) for ids in crops()}) > 1
    assert crops() == crops()
    assert crops(seed=1) != crops()
    assert len({tuple(ids) for ids in crops(crop="center")}) == 1


def test_scores_are_joined_by_key():
    rows = rows_of([(64, 64)] * 3)
    scores = pa.table(
        {
            "key": [rows[1]["key"], rows[0]["key"]],
            "shard": [0, 0],
            "quality": [2.5, None],
            "noise": [1.0, 2.0],
        }
    )
    tokens, _ = run(rows, scores=scores)
    found = dict(zip(tokens["key"].to_pylist(), tokens["quality"].to_pylist(), strict=True))
    assert found == {rows[0]["key"]: None, rows[1]["key"]: 2.5, rows[2]["key"]: None}


def test_every_row_comes_back_once_with_its_reason():
    good = rows_of([(64, 64), (80, 64)])
    jpeg = saved(noise((64, 64), 3), "JPEG")
    bad = {
        "truncated": ({"caption": "c", "image": jpeg[: len(jpeg) // 2]}, "image: .*truncated.*"),
        "html": ({"caption": "c", "image": b"<html>"}, "image: not an image in a format that Pillow reads"),
        "none": ({"caption": "c", "image": None}, "image: the row has none"),
        "empty": ({"caption": "c", "image": b""}, "image: the row has none"),
        "speck": (
            {"caption": "c", "image": saved(noise((60, 64), 4))},
            "image: 60 x 64 pixels are too few.*",
        ),
        "strip": ({"caption": "c", "image": saved(noise((2100, 200), 4))}, "image: .*cut away 62%.*"),
        "empty caption": ({"caption": "", "image": jpeg}, "caption: the row has none"),
        "no caption": ({"caption": None, "image": jpeg}, "caption: the row has none"),
        "placeholder": ({"caption": "an <|image|>", "image": jpeg}, "caption: .*hold 2.*"),
    }
    rows = [row | {"key": key} for key, (row, _) in bad.items()] + good
    tokens, failures = run(rows, target=256)
    assert sorted(tokens["key"].to_pylist()) == sorted(row["key"] for row in good)
    assert failures["key"].to_pylist() == sorted(bad)
    for row in failures.to_pylist():
        assert re.fullmatch(bad[row["key"]][1], row["reason"], re.IGNORECASE)


def test_images_are_turned_as_exif_says_or_taken_as_they_lie():
    image = noise((96, 48), 5)
    exif = Image.Exif()
    exif[0x0112] = 6
    as_said, as_seen, as_stored = (
        {"key": "k", "caption": "c", "image": data}
        for data in (
            saved(image, exif=exif),
            saved(image.transpose(Image.Transpose.ROTATE_270)),
            saved(image),
        )
    )
    tokens = run([as_said])[0]
    assert tokens["width"].to_pylist() < tokens["height"].to_pylist()
    assert tokens.equals(run([as_seen])[0])
    ignored = run([as_said], Tokenize(text_vocab=300, exif=False))[0]
    assert ignored["width"].to_pylist() > ignored["height"].to_pylist()
    assert ignored.equals(run([as_stored])[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_lands_in_the_bucket_it_is_seen_in(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = noise((96, 48), 5)
    seen = ImageOps.exif_transpose(Image.open(io.BytesIO(saved(image, exif=exif))))
    rows = [{"key": "k", "caption": "c", "image": data} for data in (saved(image, exif=exif), saved(seen))]
    said, upright = (run([row])[0] for row in rows)
    assert said.equals(upright)
    assert (said["width"].to_pylist() > said["height"].to_pylist()) == (orientation < 5)


def test_a_line_that_would_need_gigabytes_is_refused_where_no_limit_is_set():
    line = {"key": "k", "caption": "c", "image": saved(Image.new("L", (1, 30_000)))}
    unlimited = Tokenize(text_vocab=300, min_side=0, max_cut=1)
    tokens, failures = run([line], unlimited, target=256)
    assert len(tokens) == 0
    assert "too narrow" in failures["reason"].to_pylist()[0]


def test_a_speck_is_enlarged_where_no_limit_is_set():
    speck = {"key": "k", "caption": "c", "image": saved(noise((3, 3), 4))}
    assert len(run([speck], Tokenize(text_vocab=300, min_side=0))[0]) == 1
    assert len(run([speck])[1]) == 1


def test_too_long_samples_are_failures_that_name_their_length():
    rows = rows_of([(64, 64), (64, 64)])
    rows[1]["caption"] = "many words " * 20
    whole = {row["key"]: row for row in run(rows)[0].to_pylist()}
    short = whole[rows[0]["key"]]["n_tokens"]
    tokens, failures = run(rows, Tokenize(text_vocab=300, max_tokens=short))
    assert tokens.to_pylist() == [whole[rows[0]["key"]]]
    longer = whole[rows[1]["key"]]["n_tokens"]
    assert failures.to_pylist() == [
        {
            "key": rows[1]["key"],
            "reason": f"length: {longer} tokens, more than tokenize.max_tokens {short}",
        }
    ]
    assert len(run(rows, Tokenize(text_vocab=300, max_tokens=short - 1))[0]) == 0


def test_some_prompts_leave_the_size_out():
    rows = rows_of([(64, 64)] * 40)

    def prompts(**options):
        found = {}
        for row in run(rows, Tokenize(text_vocab=300, **options))[0].to_pylist():
            found[row["key"]] = TEXT.decode(row["input_ids"][1 : row["loss_spans"][0] - 1])
        return found

    captions = {row["key"]: row["caption"] for row in rows}
    named = prompts()
    assert named == {k: t2i_prompt(64, 64, c) for k, c in captions.items()}
    bare = prompts(size_in_prompt=0)
    assert bare == {
        k: f"Generate an image according to the following prompt:\n{c}" for k, c in captions.items()
    }
    half = prompts(size_in_prompt=0.5)
    with_size = {key for key in half if half[key] == named[key]}
    assert all(half[key] == bare[key] for key in half.keys() - with_size)
    assert 5 < len(with_size) < 35
    most = prompts(size_in_prompt=0.9)
    assert with_size < {key for key in most if most[key] == named[key]}  # a larger share adds to a smaller


def test_mini_codes_decode_to_the_image():
    codec = load_codec("mini")
    rows = rows_of([(64, 64), (200, 130), (130, 200)])
    tokens, failures = run(rows, target=128, codec=codec)
    assert len(tokens) == 3 and len(failures) == 0
    by_key = {row["key"]: row for row in rows}
    for row in tokens.to_pylist():
        image = Image.open(io.BytesIO(by_key[row["key"]]["image"]))
        plan = plan_crop(image.size, bucket_sizes(128), seed=seed_of(row["key"]))
        cropped = np.asarray(apply_crop(image, plan)).astype(float)
        start, end = row["loss_spans"]
        decoded = codec.decode(unframe(row["input_ids"][start : end - 1], MINI)[None])[0]
        error = np.square(decoded - cropped).mean()
        assert error < np.square(cropped - cropped.mean()).mean() / 10


def test_an_empty_shard_gives_empty_tables():
    tokens, failures = run([])
    assert len(tokens) == len(failures) == 0
    assert tokens.schema == TOKENS


def test_a_codec_of_another_shape_is_reported():
    with pytest.raises(ValueError, match=r"shape \[8, 8\] for 64 x 64 pixels, where chameleon has \[4, 4\]"):
        run(rows_of([(64, 64)]), profile=CHAMELEON)


def test_a_target_off_the_grid_is_refused():
    with pytest.raises(ValueError, match="500"):
        run([], target=500)
