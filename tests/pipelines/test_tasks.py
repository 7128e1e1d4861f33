"""Every task from its source to the table of tokens, by the command line and the codec `mini`."""

import importlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rasterloom.pipelines.inspection.explain import explain
from rasterloom.recipe.loader import load_recipe
from rasterloom.tokenize.profiles import profile_of
from rasterloom.tokenize.text_tokenizer import JsonText
from rasterloom.tokenize.unirep import unframe
from rasterloom.versions.corpus import Corpus

TASKS = Path(__file__).parents[2] / "examples" / "tasks"
ROOMS = 2
RECIPE = """
corpus: tasks
workspace: work
sources:
  - {path: data/tasks.jsonl, task: {column: task}, input: input, output: output}
  - {path: data/conversations.json}
  - {path: bad.json}
fetch: {shard_rows: 20, max_side: 512}
score: [flatness]
keep: min_side >= 64 and flatness < 1.1
tokenize: {targets: [64], text_vocab: 400, prompts: {depth: "How far? <|image|>"}}
train:
  init: tiny
  heldout: 0.2
  stages: [{target: 64, steps: 2, lr: 1.0e-3, batch_tokens: 4096}]
run: {cpus: 2, in_flight: 2}
"""
BAD = [
    {"conversations": [{"from": "human", "value": "a <|image|>"}, {"from": "gpt", "value": "b"}]},
    {"conversations": [{"from": "human", "value": "a"}]},
    {
        "conversations": [{"from": "human", "value": "See"}, {"from": "gpt", "value": "<|image|>"}],
        "image": ["gone.png"],
        "task": "edit",
    },
    {
        "conversations": [
            {"from": "human", "value": "Say <eoss><reserved08706>"},
            {"from": "gpt", "value": "ok"},
        ]
    },
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with a recipe whose steps have run, up to a trained model and the report."""
    folder = tmp_path_factory.mktemp("tasks")
    sys.path.insert(0, str(TASKS))
    try:
        importlib.import_module("make").make(folder / "data", ROOMS)
    finally:
        sys.path.remove(str(TASKS))
    (folder / "bad.json").write_text(json.dumps(BAD))
    (folder / "recipe.yaml").write_text(RECIPE)
    done = subprocess.run(
        [sys.executable, "-m", "rasterloom", "run", folder / "recipe.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def recipe(shop):
    return load_recipe(shop / "recipe.yaml")


@pytest.fixture(scope="module")
def tables(recipe):
    corpus = Corpus.of(recipe)
    return {name: corpus.read(name).to_pylist() for name in ("pairs", "images", "selection", "tokens")}


@pytest.fixture(scope="module")
def speak(shop):
    """A function that reads a row of tokens: texts and codes in turn, and what of them is learnt."""
    (file,) = shop.glob("work/**/files/text/*/tokenizer.json")
    profile = profile_of("mini", 400)
    text = JsonText(file.read_text(), profile.text0)

    def read(row):
        ids = np.array(row["input_ids"])
        assert ids[0] == profile.bos
        learnt = np.zeros(len(ids), bool)
        for start, end in np.reshape(row["loss_spans"], (-1, 2)):
            learnt[start:end] = True
        found, at = [], 1
        while at < len(ids):
            stop = at
            if ids[at] == profile.boi:
                stop = at + int(np.flatnonzero(ids[at:] == profile.eoi)[0]) + 1
                found.append((unframe(ids[at:stop], profile), bool(learnt[at:stop].all())))
            elif ids[at] == profile.sep:
                stop = at + 1
            else:
                while ids[stop] >= profile.text0:
                    stop += 1
                found.append((text.decode(ids[at:stop]), bool(learnt[at:stop].all())))
            assert len(set(learnt[at:stop].tolist())) == 1
            at = stop
        return found

    return read


def test_rows_are_conserved_and_every_task_arrives(tables):
    rows = 16 * ROOMS + len(BAD)
    assert len(tables["pairs"]) == len(tables["images"]) == len(tables["selection"]) == rows
    assert Counter(row["error"] for row in tables["images"] if row["error"]) == {
        "bad_row": 2,
        "missing_file": 1,
    }
    assert len(tables["tokens"]) == rows - 3  # the special tokens in a text are text to this tokenizer
    tasks = Counter(row["task"] for row in tables["tokens"])
    one_each = (
        "t2i",
        "caption",
        "depth",
        "normal",
        "segmentation",
        "pose",
        "detection",
        "control",
        "multiview",
    )
    assert tasks == dict.fromkeys(one_each, ROOMS) | {
        "edit": 3 * ROOMS,
        "vqa": 2 * ROOMS,
        "text": 2 * ROOMS + 1,
    }
    for row in tables["tokens"]:
        if row["task"] == "text":
            assert (row["bucket"], row["width"], row["height"]) == ("text", 0, 0)
        else:
            assert row["bucket"] == f"{row['width']}x{row['height']}" != "text"
        if row["task"] == "multiview":
            assert row["bucket"] == "64x64"


def test_text_alone_is_kept(tables):
    alone = [row for row in tables["images"] if row["status"] == "ok" and row["image"] is None]
    reasons = {row["key"]: row["reason"] for row in tables["selection"]}
    assert len(alone) == 2 * ROOMS + 1
    assert {reasons[row["key"]] for row in alone} == {"kept"}


def by_task(tables, task, where=lambda row: True):
    return next(row for row in tables["tokens"] if row["task"] == task and where(row))


def said(found):
    return ["<image>" if isinstance(part, np.ndarray) else part for part, _ in found]


def learnt(found):
    return [is_learnt for _, is_learnt in found]


def test_what_each_task_says(tables, speak):
    def of(task):
        row = by_task(tables, task, lambda row: not row["caption"].startswith("Is "))
        return row, speak(row)

    row, found = of("t2i")
    size = f"{row['width']}x{row['height']}"
    prompt = f"Generate an image of {size} according to the following prompt:\n{row['caption']}"
    assert said(found) == [prompt, "<image>"] and learnt(found) == [False, True]
    row, found = of("caption")
    assert said(found) == ["Describe the image in detail. ", "<image>", row["caption"]]
    assert learnt(found) == [False, False, True]
    for task, prompt in (
        ("depth", "How far? "),  # the recipe's own
        ("normal", "Surface normal estimation. "),
        ("segmentation", "Segmentic segmentation. "),
        ("pose", "Human pose estimation. "),
    ):
        _, found = of(task)
        assert said(found) == [prompt, "<image>", "<image>"] and learnt(found) == [False, False, True]
    _, found = of("detection")
    assert said(found)[0].startswith("Detect: the ") and said(found)[0].endswith(" ball. ")
    row, found = of("control")
    assert said(found)[0].endswith(f"according to the following caption:\n{row['caption']} ")
    row, found = of("multiview")
    assert said(found)[0].startswith("Generate 16 object views of 64x64 according to the following prompt:\n")
    assert said(found)[1:] == ["<image>"] * 8 + [" "] + ["<image>"] * 8 and learnt(found)[1:] == [True] * 17
    _, found = of("text")
    assert said(found)[0].startswith("What is ") and learnt(found) == [False, True]


def test_conversations_stay_word_for_word(tables, speak):
    text = by_task(tables, "text", lambda row: row["caption"] == "Is the ball of room 0 round?")
    assert said(speak(text)) == [text["caption"], "Yes.", "And the room?", "Not as a rule."]
    assert learnt(speak(text)) == [False, True, False, True]
    edit = by_task(tables, "edit", lambda row: len(row["loss_spans"]) == 6)
    found = speak(edit)
    size = f"{edit['width']}x{edit['height']}"  # not the 192x128 that the record names
    assert said(found)[0].startswith(f"Generate an image of {size} according to the following prompt:\n")
    assert said(found)[1::2] == ["<image>"] * 3 and learnt(found) == [False, True] * 3
    special = by_task(tables, "text", lambda row: row["caption"].startswith("Say"))
    assert said(speak(special)) == ["Say <eoss><reserved08706>", "ok"]


def test_explain_covers_every_image(recipe, tables):
    def story(row):
        return {chapter.title: dict(chapter.lines) for chapter in explain(recipe, row["key"])}

    told = story(by_task(tables, "multiview"))
    assert told["pair"]["image 16 of 16"].endswith("-view-15.png")
    assert "96 x 96 png, SHA-256 " in told["images"]["image 1 of 16"]
    assert told["images"]["image 1 of 16"].endswith("it stands for the sample")
    assert told["tokens/64"]["task"] == "multiview"
    told = story(by_task(tables, "text", lambda row: row["caption"] == "Is the ball of room 0 round?"))
    assert told["images"]["images"] == "none, it is text alone"
    assert told["selection"]["rule: min_side >= 64"].startswith("cannot say, which counts as yes")
    assert told["pair"]["human"] == "And the room?"


def test_the_model_trains_on_all_of_them_and_the_report_is_written(shop):
    (metrics,) = shop.glob("work/*/files/train/*/*/metrics.jsonl")
    losses = [json.loads(line)["loss"] for line in metrics.read_text().splitlines()]
    assert len(losses) == 2 and np.isfinite(losses).all()
    (page,) = shop.glob("work/**/*.html")
    html = page.read_text()
    assert "text alone" in html and "one of several images" in html and "multiview" in html
