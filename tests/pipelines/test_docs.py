"""Every block of commands in the docs, run one after the other as a reader would, on a small corpus.

A reader has other pictures and larger targets: SMALL says what stands for what. A command must print the
line that the docs show first below it, numbers and keys aside, and end well where that is no error.

README.md comes first: its commands make and train the corpus that the other pages look at. docs/versions.md
comes last: it takes things away.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage
from docblocks import blocks
from PIL import Image

PHOTOS = Path(skimage.__file__).parent / "data"
TRAIN = """
train:
  heldout: 0.2
  checkpoint_every: 1
  stages:
    - {target: 64, steps: 2, batch_tokens: 800}
    - {target: 96, steps: 2, batch_tokens: 800}
sample: {prompts: [a red circle], sizes: [[96, 96]]}
"""
SMALL = {
    r"examples/[\w-]+\.yaml|\bRECIPE\b": "recipe.yaml",
    r"--target (1024|256)": "--target 96",
    r"--size 768x512": "--size 96x64",
    r"--step [23]00": "--step 1",
    r"--step 400": "--step 2",
    r"aesthetic >= 4.5": "quality >= 0.2",
}
REFUSED = {  # what fails because of what went before, with the words that say so
    "rasterloom train recipe.yaml --fresh": "--fresh deletes: add --yes where nobody can be asked",
}
BEFORE = {  # what the docs tell of between two commands
    "rasterloom versions gc recipe.yaml --older-than": ("delete recipe.yaml v1", "delete recipe.yaml clean"),
    "rasterloom versions export recipe.yaml FOLDER": ("tag recipe.yaml v1",),
}
AGAIN = r"rasterloom (plan|run)(?!.*--retry)"  # what is worth doing again once the recipe was changed
ACTIVATED = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
FIRST, LAST = ("README.md", "docs/quickstart.md"), ("docs/versions.md",)


def in_order(block):
    place = FIRST.index(block.page) if block.page in FIRST else len(FIRST) + LAST.count(block.page)
    return place, block.page, block.line


BLOCKS = sorted((block for block in blocks() if block.runs), key=in_order)


@pytest.fixture(scope="module")
def reader(workshop_at, tmp_path_factory, clip):
    """A folder as a reader has it: a recipe, a picture, lists; and the commands that were run in it."""
    folder = tmp_path_factory.mktemp("reader")
    scores = f"score: [quality, {{clip: {{clip: {clip}, keep_embeddings: true}}}}]"
    run = {"score: [flatness]": scores, "in_flight: 2": "in_flight: 2, train_workers: 1"}
    shop = workshop_at(folder / "recipe.yaml").write(targets="[64, 96]", **run)
    with shop.recipe_file.open("a") as file:
        file.write(TRAIN)
    text = shop.recipe_file.read_text()
    (folder / "v1.yaml").write_text(text.replace("corpus: little", "corpus: little@v1"))
    (folder / "prompts.txt").write_text("a red circle\na blue star\n")
    (folder / "list.txt").write_text(
        f"# a letter\nhttp://127.0.0.1:{shop.site[1]}/files/photos/astronaut.png\n"
    )
    Image.new("RGB", (96, 64), "red").save(folder / "cat.jpg")
    (folder / "laion").mkdir()
    (folder / "photos").mkdir()
    for name in ("brick", "camera", "moon"):
        shutil.copy(PHOTOS / f"{name}.png", folder / "photos")
        (folder / "photos" / f"{name}.txt").write_text(f"an image of a {name}")
    (own,) = (block.text for block in blocks() if block.text.startswith("# photos.yaml\n"))
    (folder / "photos.yaml").write_text(own.replace("steps: 200", "steps: 2"))
    row = {"URL": "http://a.test/1.jpg", "TEXT": "a cat", "jpg": (folder / "cat.jpg").read_bytes()}
    pq.write_table(pa.Table.from_pylist([{**row, "aesthetic_score": 5.0}]), folder / "laion" / "0.parquet")
    shop.clip, shop.done = clip, set()
    return shop


def small(text, shop):
    """A command of the docs with the values of the small corpus."""
    for pattern, instead in SMALL.items():
        text = re.sub(pattern, instead, text)
    if re.search(r"\b[0-9a-f]{32}\b|\bKEY\b|3f9a0c", text):
        kept = next(row["key"] for row in shop.rows("selection") if row["kept"])
        text = re.sub(r"\b[0-9a-f]{32}\b|\bKEY\b|3f9a0c", kept, text)
    if "--model FOLDER" in text:
        (model,) = (shop.recipe_file.parent / "work/little/files/train").glob("2-96/*/model")
        text = text.replace("--model FOLDER", f"--model {model}")
    return re.sub(r"--clip \S+", f"--clip {shop.clip}", text)


def alike(line):
    """Without what differs from run to run: numbers, keys, snapshots, times, the space between columns."""
    line = re.sub(r"\b[0-9a-f]{12,}\b|\d[\d,.]*", "0", line.replace("little", "small"))
    return " ".join(line.split())


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_it_runs(block, reader, rasterloom, monkeypatch):
    monkeypatch.chdir(reader.recipe_file.parent)
    for command in block.commands:
        if command.elsewhere:
            continue
        command = replace(command, text=small(command.text, reader))
        if command.text in reader.done:
            continue
        for start, before in BEFORE.items():
            if command.text.startswith(start) and start not in reader.done:
                reader.done.add(start)
                assert all(rasterloom("versions", *words.split())[0] == 0 for words in before)
        reader.done.add(command.text)
        if not command.ours:
            subprocess.run(["bash", "-c", command.text], check=True, env=ACTIVATED)
            reader.done -= {text for text in reader.done if re.match(AGAIN, text)}
            continue
        code, printed, said = rasterloom(*command.words[1:])
        if code == 0 and command.shown and command.shown[0] != "...":
            assert alike(command.shown[0]) in map(alike, printed.splitlines()), f"{command.text}: {printed}"
        if code:
            shown = [REFUSED.get(command.text, ""), *command.shown]
            assert alike(said.splitlines()[0]) in map(alike, shown), f"{command.text}: {said}"
