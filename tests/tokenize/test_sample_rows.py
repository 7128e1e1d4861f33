import io
import json
import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from rasterloom.recipe.tokenize import Prompt, Tokenize
from rasterloom.schema import IMAGES
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.crop import apply_crop, plan_crop
from rasterloom.tokenize.profiles import MINI
from rasterloom.tokenize.prompt_templates import TEMPLATES, templates_of, turns
from rasterloom.tokenize.sample_rows import SAME_ASPECT, TokenizeSample, asks, plan_images, text_of, turns_of
from rasterloom.tokenize.text_tokenizer import JsonText, train_text
from rasterloom.tokenize.tokenize_shard import tokenize_shard
from rasterloom.tokenize.unirep import unframe

TEXT = JsonText(train_text(["a noisy picture", "a wide one"], 300), MINI.text0)
CONFIG = Tokenize(text_vocab=300, batch=3)
IMAGE = "<|image|>"


class BlockCodec:
    """The mean colour of each block of 8 x 8 pixels, in 4 + 3 + 3 bits: 1,024 codes."""

    def encode(self, images):
        n, height, width, _ = images.shape
        means = images.reshape(n, height // 8, 8, width // 8, 8, 3).mean((2, 4)).astype(np.int32)
        return (means[..., 0] >> 4 << 6) + (means[..., 1] >> 5 << 3) + (means[..., 2] >> 5)


def noise(size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def places(size):
    """A picture whose pixels say where they lie: red from left to right, green from top to bottom."""
    x, y = np.meshgrid((np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1])
    return Image.fromarray((255 * np.stack([x, y, 0 * x], axis=-1)).round().astype(np.uint8))


def saved(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def row(task, *pictures, said=None, main=0, key="k", caption="a noisy picture"):
    data = [picture if isinstance(picture, bytes) else saved(picture) for picture in pictures]
    first = data.pop(main) if data else None
    return {
        "key": key,
        "caption": caption,
        "status": "ok",
        "shard": 0,
        "task": task,
        "turns": None if said is None else json.dumps(said),
        "image": first,
        "main": main if data else None,
        "more": [{"image": one} for one in data] or None,
    }


def talk(*messages):
    return [{"from": "gpt" if n % 2 else "human", "value": message} for n, message in enumerate(messages)]


def run(*rows, config=CONFIG, target=64):
    defaults = dict.fromkeys(IMAGES.names)
    table = pa.Table.from_pylist([defaults | one for one in rows], IMAGES)
    tokens, failures = tokenize_shard(
        table, None, target=target, codec=BlockCodec(), text=TEXT, config=config
    )
    assert len(tokens) + len(failures) == len(rows)
    return tokens.to_pylist(), {one["key"]: one["reason"] for one in failures.to_pylist()}


def codes_of(token_row):
    ids = np.array(token_row["input_ids"])
    begin, end = np.flatnonzero(ids == MINI.boi), np.flatnonzero(ids == MINI.eoi)
    return [unframe(ids[a : b + 1], MINI) for a, b in zip(begin, end, strict=True)]


def test_an_edited_image_lies_on_its_original():
    before = noise((300, 170))
    after = before.copy()
    after.paste((255, 0, 0), (140, 60, 170, 90))
    for seed in range(5):
        (found,), _ = run(
            row("edit", before, after, said={"instruction": "x"}, main=1, key=str(seed)), target=128
        )
        one, other = codes_of(found)
        changed = one != other
        assert changed.any() and changed.sum() <= 5 * 5  # 30 pixels, scaled, are at most so many blocks
        rows, columns = np.nonzero(changed)
        assert np.ptp(rows) <= 4 and np.ptp(columns) <= 4


@given(
    st.tuples(st.integers(40, 700), st.integers(40, 700)),
    st.floats(0.25, 4),
    st.tuples(st.integers(-1, 1), st.integers(-1, 1)),
    st.integers(0, 2**32),
)
def test_images_of_nearly_one_aspect_lie_alike(size, scale, off, seed):
    """An image and its copy at another size, give or take a pixel: what lies where agrees after the crop."""
    other = tuple(max(1, round(side * scale) + o) for side, o in zip(size, off, strict=True))
    if min(other) < 60 or min(size) < 60:
        other = size
    if not 0.25 <= size[0] / size[1] <= 4:
        size = other = (size[0], size[0])
    # A pixel of a short side may be more than the rule calls nearly one aspect.
    assume(abs(math.log(size[0] * other[1] / (size[1] * other[0]))) < math.log(SAME_ASPECT))
    sample = TokenizeSample("k", "", "depth", {}, (b"", b""), 1)
    for target in (64, 96):
        plans = plan_images(sample, [size, other], [True, False], target, CONFIG, lambda _: seed)
        assert plans[0].bucket == plans[1].bucket and plans[0].box == plans[1].box
        assert plans[0].resizes[-1] == plans[1].resizes[-1]
        assert plans[1] == plan_crop(other, bucket_sizes(target), seed=seed)  # the answer leads
        a, b = (
            np.asarray(apply_crop(places(s), plan), int) for s, plan in zip((size, other), plans, strict=True)
        )
        assert np.abs(a - b).max() <= 6  # of 255: under 3 % of a side, where an odd side was halved


def test_alone_they_would_have_gone_apart():
    """The case that the rule is for: sizes a pixel apart whose buckets differ."""
    sizes = [(n, 100) for n in range(60, 300)]
    chosen = [plan_crop(size, bucket_sizes(256)).bucket for size in sizes]
    apart = next(i for i, (a, b) in enumerate(pairwise(chosen)) if a != b and sizes[i][0] > 120)
    sample = TokenizeSample("k", "", "depth", {}, (b"", b""), 1)
    plans = plan_images(sample, sizes[apart : apart + 2], [True, False], 256, CONFIG, lambda _: 1)
    assert plans[0].bucket == plans[1].bucket == chosen[apart + 1]


def test_images_of_other_aspect_have_buckets_of_their_own():
    said = talk(f"What do {IMAGE} and {IMAGE} share?", f"Noise. {IMAGE}")
    (found,), _ = run(row("edit", noise((100, 50)), noise((50, 100)), noise((80, 80)), said=said, main=2))
    assert [codes.shape for codes in codes_of(found)] == [(4, 8), (8, 4), (8, 8)]
    assert (found["bucket"], found["width"], found["height"]) == ("64x64", 64, 64)


def test_images_in_prompts_at_a_lower_target():
    config = CONFIG.model_copy(update={"prompt_target": 32})
    edit = row("edit", noise((90, 90)), noise((90, 90)), said={"instruction": "x"}, main=1)
    (found,), _ = run(edit, config=config)
    assert [codes.shape for codes in codes_of(found)] == [(4, 4), (8, 8)] and found["bucket"] == "64x64"
    (found,), _ = run(row("vqa", noise((90, 90)), said={"question": "q", "answer": "a"}), config=config)
    assert found["bucket"] == "32x32"
    (found,), _ = run(edit, config=CONFIG.model_copy(update={"prompt_target": 128}))
    assert [codes.shape for codes in codes_of(found)] == [(8, 8), (8, 8)]  # never more than the target


def test_views_have_a_bucket_of_their_own():
    views = [noise((90, 60), n) for n in range(16)]
    config = CONFIG.model_copy(update={"view_side": 64})
    (found,), _ = run(row("multiview", *views, said={}), config=config, target=96)
    assert found["bucket"] == "64x64" and [codes.shape for codes in codes_of(found)] == [(8, 8)] * 16
    prompt = TEXT.decode([i for i in found["input_ids"] if i >= MINI.text0])
    assert prompt.startswith("Generate 16 object views of 64x64 according to")
    (found,), _ = run(row("multiview", *views, said={}), config=config, target=32)
    assert found["bucket"] == "32x32"


def test_text_alone():
    (found,), _ = run(row("text", said=talk("Why?", "So.", "And?", "Then.")))
    assert (found["bucket"], found["width"], found["height"], found["task"]) == ("text", 0, 0, "text")
    spans = np.reshape(found["loss_spans"], (-1, 2))
    assert [TEXT.decode(found["input_ids"][a : b - 1]) for a, b in spans] == ["So.", "Then."]


def test_the_prompt_names_the_bucket_of_the_image_that_answers_it():
    asked = "Generate an image of {} according to the following prompt:\na 10x10 grid"
    said = talk(asked.format("768x768"), IMAGE, asked.format("{width}x{height}"), IMAGE, "3x4?", "12")
    (found,), _ = run(row("edit", noise((100, 50)), noise((50, 100)), said=said))
    words = TEXT.decode([i for i in found["input_ids"] if i >= MINI.text0])
    assert words == asked.format("64x32") + asked.format("32x64") + "3x4?12"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row("edit", noise((64, 64)), b"<html>", said={"instruction": "x"}),
         "image 2 of 2: not an image in a format that Pillow reads"),
        (row("edit", noise((64, 64)), saved(noise((64, 64)))[:300], said={"instruction": "x"}, main=1),
         "image 2 of 2: "),
        (row("edit", noise((64, 64)), b"", said={"instruction": "x"}), "image 2 of 2: "),
        (row("depth", noise((64, 64)), said={}),
         f"turns: the messages hold 2 {IMAGE}, but the row has 1 image"),
        (row("caption", said={}), f"turns: the messages hold 1 {IMAGE}, but the row has no images"),
        (row("edit", noise((64, 64)), noise((64, 64)), said={"question": "x"}),
         "turns: task 'edit' needs 'instruction'; there are caption, height, question, width"),
        (row("paint", noise((64, 64)), said={}), "turns: unknown task 'paint'; known: t2i, "),
        (row("text", said={"question": f"a {IMAGE}", "answer": "b"}), f"turns: the messages hold 1 {IMAGE}"),
        (row("t2i", noise((64, 64)), caption=f"an {IMAGE}"), f"caption: the messages hold 2 {IMAGE}"),
        (row("t2i"), "image: the row has none"),
        (row("t2i", noise((64, 64)), caption=""), "caption: the row has none"),
        (row("vqa", said=talk("only a question")), "turns: the conversation has no answer to learn from"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(bad, reason):
    good = row("vqa", noise((64, 64)), said={"question": "q", "answer": "a"}, key="good")
    tokens, failures = run(bad, good)
    assert [one["key"] for one in tokens] == ["good"]
    assert failures["k"].startswith(reason)


def test_text_that_would_be_read_as_structure_is_refused():
    class Careless:
        digest = "careless"

        def encode(self, text):
            return [MINI.eoi if "<eoss>" in text else MINI.text0]

        def decode(self, ids):
            return ""

    table = pa.Table.from_pylist(
        [dict.fromkeys(IMAGES.names) | row("text", said=talk("Say <eoss>", "no"))], IMAGES
    )
    _, failures = tokenize_shard(
        table, None, target=64, codec=BlockCodec(), text=Careless(), config=CONFIG, profile=MINI
    )
    (reason,) = failures["reason"].to_pylist()
    assert reason == "turns: the text 'Say <eoss>' encodes to 1028, which is no id of text"


def test_a_table_of_an_older_version_is_read():
    table = pa.table(
        {"key": ["k"], "caption": ["c"], "image": pa.array([saved(noise((64, 64)))], pa.large_binary())}
    )
    tokens, failures = tokenize_shard(table, None, target=64, codec=BlockCodec(), text=TEXT, config=CONFIG)
    assert tokens["task"].to_pylist() == ["t2i"] and not len(failures)


def test_prompts_of_the_recipe():
    config = CONFIG.model_copy(
        update={
            "prompts": {
                "depth": "How far? <|image|>",
                "shape": Prompt(human="Shape? <|image|>", gpt="{shape}"),
            }
        }
    )
    tokens, failures = run(
        row("depth", noise((64, 64)), noise((64, 64)), said={}, main=1, key="a"),
        row("shape", noise((64, 64)), said={"shape": "round", "task": "x", "templates": "y"}, key="b"),
        config=config,
    )
    assert not failures
    texts = {t["key"]: TEXT.decode([i for i in t["input_ids"] if i >= MINI.text0]) for t in tokens}
    assert texts == {"a": "How far? ", "b": "Shape? round"}
    assert hash(config) != hash(CONFIG)  # what is kept of a config is kept by it
    assert templates_of({"caption": "What is it? <|image|>"})["caption"].gpt == "{caption}"
    for wrong, why in (
        ("{0} <|image|>", "is no name of a column"),
        ("{a", "is meant as such is written twice"),
    ):
        with pytest.raises(ValueError, match=why):
            Tokenize(prompts={"depth": wrong})
    with pytest.raises(ValueError, match="a target is a multiple of 32 pixels; 50 is not"):
        Tokenize(prompt_target=50)


@pytest.mark.parametrize("task", TEMPLATES)
def test_the_reader_of_conversations_knows_each_task_by_its_wording(task):
    from rasterloom.sources.readers.conversations import task_of

    template = TEMPLATES[task]
    said = [
        message for _, message in turns(task, **{name: f"some {name}" for name in template.fields} | SIZE)
    ]
    found = task_of(said, [message.count(IMAGE) for message in said])
    assert found == {
        "t2i_any_size": "t2i",
        "caption_paper": "caption",
        "segmentation_paper": "segmentation",
    }.get(task, task)


SIZE = {"width": 384, "height": 384}


def test_what_stands_in_a_question():
    assert asks([("human", f"{IMAGE} {IMAGE}"), ("gpt", IMAGE)], 3) == [True, True, False]
    assert asks([("human", "none"), ("gpt", "none")], 2) == [True, True]


def test_what_a_vocabulary_learns():
    assert text_of({"caption": "c", "turns": None}) == "c"
    assert text_of({"caption": "c", "turns": json.dumps({"instruction": "i", "n": 3})}) == "c\ni"
    assert text_of({"caption": "c", "turns": json.dumps(talk(f"a {IMAGE}", "b"))}) == "a\nb"


def test_turns_of_a_named_template():
    sample = TokenizeSample("k", "a cat", "t2i", {}, (b"",))
    assert turns_of(sample, [(64, 32)], template="t2i_any_size")[0][1].startswith(
        "Generate an image according to"
    )
