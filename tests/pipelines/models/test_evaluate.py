"""A corpus that is trained on for a few steps through Ray, looked at, sampled from and evaluated."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from eventfiles import pictures, scalars
from PIL import Image

from rasterloom.pipelines.models.evaluate import _way_out
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace.status import local_folder
from rasterloom.recipe.loader import load_recipe

TRAIN = """
train:
  heldout: 0.3
  checkpoint_every: 2
  log_every: 2
  evaluate_every: 2
  sample_every: 2
  ema: {decay: 0.5}
  stages:
    - {target: 64, steps: 4, lr: 1.0e-3, batch_tokens: 1024}
    - {target: 64, steps: 2, lr: 1.0e-2, batch_tokens: 1024}
sample:
  prompts: [a red circle, a blue star]
  cfg: 2.0
  top_k: 50
  ema: true
  suite: {prompts: scenes, limit: 6, seeds: 2, size: [64, 64]}
"""


@pytest.fixture(scope="module")
def trained(workshop_at, tmp_path_factory):
    shop = workshop_at(tmp_path_factory.mktemp("trained") / "recipe.yaml")
    shop.write(**{"in_flight: 2": "in_flight: 2, train_workers: 1"})
    with shop.recipe_file.open("a") as file:
        file.write(TRAIN)
    shop.run()
    return shop


def folders(shop):
    return [local_folder(shop.corpus, step) for step in Workflow(shop.recipe).stages]


def page(shop):
    (report,) = (shop.corpus.store.list("little/files/report"),)
    (name,) = (name for name in report if name.endswith("index.html"))
    return shop.corpus.store.read(name).decode()


def test_what_is_seen_of_training_is_in_its_folder_and_on_the_page(trained):
    first, second = folders(trained)
    for folder, steps in ((first, (2, 4)), (second, (2,))):
        names = [f"step-{step:08d}-{number}.png" for step in steps for number in (0, 1)]
        assert sorted(path.name for path in (folder / "samples").glob("*.png")) == names
        assert Image.open(folder / "samples" / names[0]).size == (64, 64)
        found = scalars(folder / "events")
        assert ("train/loss", steps[-1]) in found and ("heldout/all/loss", 0) in found
        assert {step for _, step in pictures(folder / "events")} == set(steps)
    html = page(trained)
    assert "Stage 1-64 learns to draw" in html and "Stage 2-64 learns to draw" in html
    assert html.count('alt="a red circle, at step ') == 3


def test_a_stage_beside_the_whole_run(trained, rasterloom, tmp_path):
    first = Workflow(trained.recipe).stages[0]
    out = tmp_path / "compare.html"
    code, _, error = rasterloom(
        "report", trained.recipe_file, "--compare", first.fingerprint[:8], "--out", out
    )
    assert code == 0, error
    html = out.read_text()
    rows = dict(re.findall(r"<bdi>(steps)</bdi></th><td>(.*?)</tr>", html))
    assert rows == {"steps": "–</td><td>2</td><td></td>"}, "the last stage's: A has none"
    assert "Stage 1-64" in html and "Stage – of A, 2-64 of B" in html
    assert html.count('alt="A generates: a red circle"') == html.count('alt="B generates: a red circle"') == 1
    assert "<td>the step</td>" in html, "B has a stage that A has not"


def test_changing_how_it_is_watched_trains_nothing_again(trained, tmp_path):
    text = trained.recipe_file.read_text().replace("evaluate_every: 2", "evaluate_every: 3")
    other = trained.recipe_file.with_name("watched.yaml")
    other.write_text(text.replace("log_every: 2", "trackers: []").replace("sample_every: 2", "log_every: 7"))
    before = [step.fingerprint for step in Workflow(trained.recipe).stages]
    assert [step.fingerprint for step in Workflow(load_recipe(other)).stages] == before


def test_checkpoints_side_by_side(trained, rasterloom, clip, tmp_path):
    arguments = ["evaluate", trained.recipe_file, "--stage", "1", "--stage", "2", "--pictures", "6"]
    code, printed, _ = rasterloom(*arguments, "--clip", clip, "--out", tmp_path / "figures.json")
    assert code == 0
    found = json.loads((tmp_path / "figures.json").read_text())
    # The held-out loss of a stage is the one that training measured as it ended.
    for folder, checkpoint in zip(folders(trained), found["checkpoints"], strict=True):
        ended = json.loads((folder / "heldout.json").read_text())["end"]
        assert checkpoint["heldout"]["all"]["rows"] == ended["all"]["rows"]
        for kind in ("tasks", "buckets"):
            assert checkpoint["heldout"][kind].keys() == ended[kind].keys()
            for name, losses in ended[kind].items():
                assert checkpoint["heldout"][kind][name]["loss"] == pytest.approx(losses["loss"], abs=1e-4)
        assert -1 <= checkpoint["clip"] <= 1 and checkpoint["clip_fd"] > 0
        kept = json.loads((folder / "evaluation.json").read_text())
        assert kept["checkpoints"] == [checkpoint]
    assert found["codec"]["pictures"] == found["drawn"] == 6 and found["clip_dimensions"] == 24
    assert 15 < found["codec"]["psnr"] < 60 and 0.3 < found["codec"]["ssim"] <= 1
    assert "CLIP-FD is of 6 images in 24 dimensions" in found["notes"][0]
    for words in ("1-64", "2-64", "CLIP score", "dB PSNR", "report: "):
        assert words in printed
    html = page(trained)
    assert 'id="evaluation"' in html and "CLIP-FD" in html


def test_without_clip_what_is_missing_is_reported_and_a_folder_is_a_checkpoint_too(trained, rasterloom):
    model = folders(trained)[0] / "model"
    code, printed, _ = rasterloom("evaluate", trained.recipe_file, "--model", model, "--format", "json")
    found = json.loads(printed)
    assert code == 0 and found["checkpoints"][0]["clip"] is None and found["drawn"] == 0
    assert found["notes"] == [
        "No CLIP weights: CLIP score and CLIP-FD take a CLIP, or the recipe's score clip."
    ]
    ended = json.loads((folders(trained)[0] / "heldout.json").read_text())["end"]["all"]
    assert found["checkpoints"][0]["heldout"]["all"]["loss"] == pytest.approx(ended["loss"], abs=1e-4)


def test_a_stage_is_sampled_from(trained, rasterloom, tmp_path):
    code, _, _ = rasterloom(
        "sample", trained.recipe_file, "--prompt", "a red circle", "--stage", 1, "--out", tmp_path / "s"
    )
    told = json.loads((tmp_path / "s" / "samples.json").read_text())
    assert code == 0 and told["stage"] == "1-64" and told["model"] == str(folders(trained)[0] / "model")


def test_checkpoints_in_the_middle_of_a_stage(trained, rasterloom, tmp_path):
    """Held-out losses are those that were measured on the way; figures of the stage itself stay."""
    kept = folders(trained)[0] / "evaluation.json"
    before = kept.read_text() if kept.exists() else None
    arguments = ["--stage", "1", "--step", "2", "--step", "latest", "--format", "json"]
    code, printed, _ = rasterloom("evaluate", trained.recipe_file, *arguments)
    assert code == 0
    middle, last = json.loads(printed)["checkpoints"]
    notes = json.loads((folders(trained)[0] / "heldout.json").read_text())
    for found, at, noted in ((middle, 2, notes["steps"]["2"]), (last, 4, notes["end"])):
        assert found["name"] == f"1-64 step {at}"
        assert found["heldout"]["all"]["loss"] == pytest.approx(noted["all"]["loss"], abs=1e-4)
    assert (kept.read_text() if kept.exists() else None) == before
    out = tmp_path / "s"
    code, _, _ = rasterloom("sample", trained.recipe_file, "--prompt", "x", "--step", "latest", "--out", out)
    told = json.loads((out / "samples.json").read_text())
    assert code == 0 and (told["stage"], told["step"]) == ("2-64", 2)


def test_averages_beside_the_weights(trained, rasterloom, tmp_path):
    kept = folders(trained)[0] / "evaluation.json"
    before = kept.read_text() if kept.exists() else None
    found = {}
    for arguments in (["--stage", "1"], ["--stage", "1", "--step", "2"]):
        code, printed, _ = rasterloom(
            "evaluate", trained.recipe_file, *arguments, "--ema", "--pictures", "0", "--format", "json"
        )
        assert code == 0
        found |= {c["name"]: c["heldout"]["all"]["loss"] for c in json.loads(printed)["checkpoints"]}
    assert list(found) == ["1-64", "1-64 ema", "1-64 step 2", "1-64 step 2 ema"]
    assert len(set(found.values())) == 4
    # An average lies behind the weights, whose losses fall.
    assert found["1-64"] < found["1-64 ema"] and found["1-64 step 2"] < found["1-64 step 2 ema"]
    assert kept.exists() or before is None
    told = {}
    for name, arguments in {"ema": ["--ema"], "plain": [], "at": ["--ema", "--step", "2"]}.items():
        out = tmp_path / name
        command = ["sample", trained.recipe_file, "--prompt", "a red circle", "--stage", 1, "--out", out]
        code, _, _ = rasterloom(*command, *arguments)
        assert code == 0
        told[name] = json.loads((out / "samples.json").read_text())["model"]
    assert told["ema"] == str(folders(trained)[0] / "model_ema")
    assert told["plain"] == str(folders(trained)[0] / "model")
    assert told["at"].endswith("-ema")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["--stage", "1", "--step", "3"],
            "--step 3: train/1-64 has no such checkpoint; there are 2, 4, and latest (train.keep_checkpoints "
            "sets how many are kept)",
        ),
        (
            ["--stage", "1", "--stage", "2", "--step", "2"],
            "--step: takes the checkpoints of one stage: give one --stage",
        ),
        (["--stage", "3"], "--stage 3: the recipe has stages 1 to 2"),
        (
            ["--clip", "nowhere"],
            "--clip nowhere: no such folder; it takes a checkpoint of transformers' CLIP",
        ),
        (["--model", "nowhere"], "--model nowhere: no checkpoint there (expected a config.json)"),
        (["--target", "96"], "there are no tokens of target 96 yet: rasterloom run RECIPE --until lengths"),
    ],
)
def test_what_cannot_be_measured_is_one_line(trained, rasterloom, arguments, reason):
    code, printed, told = rasterloom("evaluate", trained.recipe_file, *arguments)
    assert (code, printed, told.strip()) == (2, "", reason)


def test_the_sample_step_draws_and_judges_its_suite(trained):
    (sample,) = (step for step in Workflow(trained.recipe).steps if step.name == "sample")
    rows = pq.read_table(local_folder(trained.corpus, sample) / "suite.parquet").to_pylist()
    assert len({(row["prompt"], row["seed"]) for row in rows}) == len(rows) == 12
    assert len({row["image"] for row in rows}) > 6, "each seed draws another image"
    html = page(trained)
    assert "of the suite's images" in html and "all right" in html


def test_a_suite_is_drawn_judged_and_shown_checkpoint_by_checkpoint(trained, rasterloom, tmp_path):
    recipe = trained.recipe_file.with_name("suites.yaml")
    suite = "{name: drawn, prompts: scenes, limit: 12, seeds: 2}"
    recipe.write_text(trained.recipe_file.read_text() + f"evaluate: {{suites: [{suite}]}}\n")
    asked = ["evaluate", recipe, "--stage", "1", "--stage", "2", "--suite", "drawn"]
    code, printed, error = rasterloom(*asked, "--out", tmp_path / "suite.json")
    assert code == 0, error
    (found,) = json.loads((tmp_path / "suite.json").read_text())
    assert (found["suite"], found["prompts"], found["seeds"]) == ("drawn", 12, [0, 1])
    assert [one["name"] for one in found["checkpoints"]] == ["1-64", "2-64"]
    for one in found["checkpoints"]:
        whole = one["figures"][0]
        assert (whole["judge"], whole["name"], whole["count"]) == ("scene", "all", 24)
        assert 0 <= whole["low"] <= whole["mean"] <= whole["high"] <= 1
        assert {figure["name"] for figure in one["figures"]} == {
            "all", "single object", "two objects", "count", "colour", "size", "position"
        }  # fmt: skip
        rows = pa.concat_tables([pq.read_table(file) for file in one["files"]]).to_pylist()
        assert len({(row["number"], row["seed"]) for row in rows}) == 24
        assert Image.open(io.BytesIO(rows[0]["image"])).size == (64, 64)
    assert "12 prompts, 2 seeds" in printed and f"page: {found['page']}" in printed
    html = Path(found["page"]).read_text()
    assert html.count('alt="drawn for: ') == 48 and "2-64" in html
    # Nothing is drawn again, but what a stopped run had not done: here a shard of the second checkpoint.
    before = {file: Path(file).read_bytes() for one in found["checkpoints"] for file in one["files"]}
    staged = Path(found["checkpoints"][1]["files"][0]).parents[1]
    for path in (*sorted((staged / "shards").iterdir())[:1], staged / "result.json"):
        path.unlink()
    for record in trained.corpus.store.list(f"{trained.corpus.layout.records}/suite"):
        trained.corpus.store.delete(record)
    code, _, error = rasterloom(*asked, "--out", tmp_path / "again.json")
    assert code == 0, error
    (again,) = json.loads((tmp_path / "again.json").read_text())
    assert [one["figures"] for one in again["checkpoints"]] == [
        one["figures"] for one in found["checkpoints"]
    ]
    files = [file for one in again["checkpoints"] for file in one["files"]]
    assert len(set(files) & set(before)) == len(before) - 1 == 3
    assert all(Path(file).read_bytes() == before[file] for file in before)


def test_a_suite_in_a_file_with_judges_of_all_kinds(trained, rasterloom, clip, tmp_path):
    (tmp_path / "own.jsonl").write_text('{"prompt": "a cat"}\n{"prompt": "a large red circle"}\n')
    for number in range(3):
        Image.new("RGB", (32, 32), (80 * number, 20, 20)).save(tmp_path / f"{number}.png")
    judges = f"[scene, clip: {{clip: {clip}}}, cmmd: {{clip: {clip}, reference: {tmp_path}}}]"
    recipe = trained.recipe_file.with_name("judges.yaml")
    suite = f"{{name: own, prompts: {tmp_path}/own.jsonl, judges: {judges}}}"
    recipe.write_text(trained.recipe_file.read_text() + f"evaluate: {{suites: [{suite}]}}\n")
    code, printed, error = rasterloom("evaluate", recipe, "--suite", "own", "--format", "json")
    assert code == 0, error
    (found,) = json.loads(printed)
    (checkpoint,) = found["checkpoints"]
    figures = {(one["judge"], one["name"]): one for one in checkpoint["figures"] if one["is_whole"]}
    assert list(figures) == [("scene", "all"), ("clip", "clip"), ("cmmd", "distance")]
    assert [one["count"] for one in figures.values()] == [4, 8, 8]
    assert figures["cmmd", "distance"]["mean"] > 0 and figures["clip", "clip"]["low"] < 1
    assert (found["suite"], found["prompts"], found["seeds"]) == ("own", 2, [0, 1, 2, 3])
    (file, *_) = checkpoint["files"]
    notes = {row["prompt"]: dict(row["notes"])["scene"] for row in pq.read_table(file).to_pylist()}
    assert "is no drawn scene" in notes["a cat"] and "is no" not in notes["a large red circle"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--suite", "none"], "no such suite: known: scenes, and files"),
        (["--suite", "geneval2"], "get geneval2_data.jsonl from https://"),
        (["--suite", "none.jsonl"], "No such file"),
        (["--suite", "scenes", "--judge", "nobody"], "unknown judge 'nobody'; known: scene, clip, vqa"),
        (["--judge", "scene"], "the recipe has no suites: give --suite"),
    ],
)
def test_a_suite_that_cannot_be_judged_is_reported_in_a_line(trained, rasterloom, arguments, reason):
    code, _, error = rasterloom("evaluate", trained.recipe_file, *arguments)
    assert code == 2 and reason in " ".join(error.split())


def test_a_share_that_holds_nothing_out_names_one_that_does():
    said = "a train.heldout of 0.02 takes none of the 2 images, 0.13 would take one and train anew"
    assert _way_out(np.array([0.125, 0.5]), 0.02) == said
