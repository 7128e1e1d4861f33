"""Captions of a shard, by an endpoint and by fields."""

import json

import pyarrow.compute as pc
import pytest
from aiohttp import web

from rasterloom.captions.caption_shard import Known, caption_shard, known_rows
from rasterloom.captions.endpoint_pool import close_endpoints
from rasterloom.errors import RunPaused
from rasterloom.recipe.captions import Captioner
from rasterloom.schema import CAPTIONS

JSON = "Answer in JSON with short, long and tags. The page said: {{ alt }} ({{ meta.title }})"
NAMES = ["short", "long", "tags"]


def test_one_row_a_name_in_the_order_of_keys(endpoint, captioner, images):
    table, counts = caption_shard(images(3), captioner(JSON, NAMES, usd_in=1.0, usd_out=2.0))
    assert table.schema == CAPTIONS
    rows = table.to_pylist()
    assert [(row["key"][-1], row["name"]) for row in rows] == [(k, n) for k in "012" for n in NAMES]
    assert [row["caption"] for row in rows[:3]] == [
        "a wide scene in red",
        "a wide scene whose main colour is red, with a level of 255",
        "wide, red",
    ]
    assert {(row["shard"], row["captioner"], row["number"], row["error"]) for row in rows} == {
        (7, "vlm", 0, None)
    }
    # What an answer took stands on its first row alone, so that sums are right.
    assert [row["tokens_in"] for row in rows[:3]] == [100, None, None]
    assert pc.sum(table["usd"]).as_py() == pytest.approx(3 * 120e-6)
    assert counts == {"ok": 9, "tokens": 330, "usd_millionths": 360}
    assert endpoint[0].bodies[0]["messages"][0]["content"][1]["text"].endswith("found on the web (number 0)")


def test_answers_that_are_known_are_not_asked_for_again(endpoint, captioner, images):
    by = captioner(JSON, NAMES)
    table, _ = caption_shard(images(3), by)
    again, counts = caption_shard(images(4), by, known=Known(known_rows([table])))
    assert len(endpoint[0].bodies) == 4
    assert again.slice(0, 9).equals(table)
    assert counts == {"ok": 12, "tokens": 110}  # what was paid now


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "In JSON, please: short, long, tags. {{ alt }}"},
        {"model": "eye-2"},
        {"version": "of June"},
        {"max_tokens": 99},
        {"max_side": 32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_request_is_asked(endpoint, captioner, images, change):
    table, _ = caption_shard(images(2), captioner(JSON, NAMES))
    prompt = change.pop("prompt", JSON)
    caption_shard(images(2), captioner(prompt, NAMES, **change), known=Known(known_rows([table])))
    assert len(endpoint[0].bodies) == 4


def test_settings_of_speed_and_money_ask_nothing_again(endpoint, captioner, images):
    table, _ = caption_shard(images(2), captioner(JSON, NAMES))
    other = captioner(JSON, NAMES, concurrency=3, retries=0, timeout_s=9, usd_in=5.0, budget_usd=1.0, key="")
    caption_shard(images(2), other, known=Known(known_rows([table])))
    assert len(endpoint[0].bodies) == 2


def test_failures_are_rows_and_are_asked_again_by_class(endpoint, captioner, images):
    model, _ = endpoint
    answers = iter(['{"short": "a"}', "I see nothing", None, None])
    model.answer = lambda body: next(answers) or json.dumps(dict.fromkeys(NAMES, "fine"))
    by = captioner(JSON, NAMES, concurrency=1)
    table, counts = caption_shard(images(3), by)
    assert counts == {"ok": 3, "bad_answer": 6, "tokens": 330}  # they are paid, too
    assert table["error"].to_pylist() == ["bad_answer"] * 6 + [None] * 3
    assert "no 'long'" in table["detail"][0].as_py()
    assert table["refusal"].to_pylist() == [None] * 6 + [False] * 3
    kept, _ = caption_shard(images(3), by, known=Known(known_rows([table])))
    assert kept.equals(table) and len(model.bodies) == 3
    model.answer = None
    again, _ = caption_shard(images(3), by, known=Known(known_rows([table], ["bad_answer"])))
    assert again["error"].null_count == 9 and len(model.bodies) == 5


def test_what_a_prompt_asks_for_and_is_not_there_is_a_failure_of_its_row(endpoint, captioner, images):
    table, counts = caption_shard(images(2), captioner("{{ meta.author }}: what is it?"))
    assert counts == {"no_field": 2} and not endpoint[0].bodies
    assert "author" in table["detail"][0].as_py()


def test_text_of_strangers_is_no_template(endpoint, captioner, images):
    caption_shard(images(1, caption="{{ 7 * 7 }} {% for x in y %}"), captioner("Alt: {{ alt }}"))
    assert endpoint[0].bodies[0]["messages"][0]["content"][1]["text"] == "Alt: {{ 7 * 7 }} {% for x in y %}"


def test_a_long_alt_text_is_cut(endpoint, captioner, images):
    caption_shard(images(1, caption="x" * 100_000), captioner("Alt: {{ alt }}"))
    assert len(endpoint[0].bodies[0]["messages"][0]["content"][1]["text"]) == len("Alt: ") + 2000


def test_a_spent_budget_leaves_rows_for_another_run_and_begins_no_shard(endpoint, captioner, images):
    by = captioner(budget_tokens=350, concurrency=1)
    table, counts = caption_shard(images(6), by)
    assert counts == {"ok": 3, "budget": 3, "tokens": 330}
    with pytest.raises(RunPaused, match="budget_tokens"):
        caption_shard(images(6), by, known=Known(known_rows([table]), tokens=330))
    close_endpoints()  # another process, with more money
    more = captioner(budget_tokens=10_000, concurrency=1)
    again, counts = caption_shard(images(6), more, known=Known(known_rows([table]), tokens=330))
    assert counts == {"ok": 6, "tokens": 330} and again["error"].null_count == 6
    assert len(endpoint[0].bodies) == 6


def test_an_endpoint_that_is_down_leaves_rows_for_another_run(endpoint, captioner, images, quick_retries):
    endpoint[0].misbehave = lambda number, body: web.Response(status=500)
    by = captioner(down_after=2, retries=5, concurrency=1)
    table, counts = caption_shard(images(4), by)
    assert counts == {"host_down": 4} and len(endpoint[0].bodies) == 2
    with pytest.raises(RunPaused, match="answered 500"):
        caption_shard(images(4), by, known=Known(known_rows([table])))


def field(path, name="other"):
    return Captioner.model_validate({"name": name, "field": path})


def test_fields_of_the_source(images):
    meta = {"text": {"long": "a long text", "all": ["one", "two", "one", " ", None]}, "year": 1999}
    for path, captions in {
        "text.long": ["a long text"],
        "text.all[*]": ["one", "two"],
        "text.all[1]": ["two"],
        "year": ["1999"],
        "caption": ["found on the web"],
    }.items():
        table, counts = caption_shard(images(1, meta=meta), field(path))
        assert table["caption"].to_pylist() == captions, path
        assert table["number"].to_pylist() == list(range(len(captions)))
        assert counts == {"ok": len(captions)}
    table, counts = caption_shard(images(1, meta=meta), field("text.short"))
    assert counts == {"no_field": 1}


def test_no_image_no_rows(images, captioner):
    table, counts = caption_shard(images(1).slice(0, 0), captioner())
    assert (len(table), counts) == (0, {})
