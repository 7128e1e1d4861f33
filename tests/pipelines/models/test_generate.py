"""`rasterloom sample`, on a corpus of a few scenes and a model that has learnt nothing."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from rasterloom.cli.app import app
from rasterloom.cli.options import with_options
from rasterloom.errors import RecipeError
from rasterloom.filtering.scenes.judge import judge
from rasterloom.pipelines.models import generate
from rasterloom.pipelines.models.load import ModelChoice, load_model, model_of_stage, text_codec_of
from rasterloom.pipelines.progress.reporter import Progress
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe
from rasterloom.tokenize.buckets import bucket_sizes
from rasterloom.tokenize.codecs.load import load_codec
from rasterloom.tokenize.conversation import encode_prompt
from rasterloom.tokenize.crop import apply_crop, plan_crop
from rasterloom.tokenize.prompt_templates import t2i_prompt
from rasterloom.tokenize.text_tokenizer import train_text
from rasterloom.train.model.packed_lm import build_model, save_model
from rasterloom.train.sampling.sampler import open_sampler
from rasterloom.utils.redact import safe


@pytest.fixture(scope="module")
def model(undisturbed, tmp_path_factory):
    """A checkpoint of the corpus's vocabulary, far from uniform."""
    profile = text_codec_of(Workflow(undisturbed.recipe)).profile
    lm = build_model("tiny", profile)
    with torch.no_grad():
        lm.lm_head.weight.mul_(8)
    folder = tmp_path_factory.mktemp("model")
    save_model(lm, profile, folder)
    return folder


@pytest.fixture
def sample(undisturbed, model, tmp_path):
    """Run the command; gives samples.json and the folder."""

    def run(*arguments, out="out"):
        folder = tmp_path / out
        command = [
            "sample",
            str(undisturbed.recipe_file),
            "--model",
            str(model),
            "--out",
            str(folder),
            *arguments,
        ]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads((folder / "samples.json").read_text()), folder, result.output

    return run


def picture(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_images_are_what_the_sampler_draws(sample, undisturbed, model):
    page, folder, printed = sample(
        "--prompt", "a red dot", "--size", "64x64", "--size", "64x32", "--n", "2", "--seed", "5"
    )
    assert [(e["width"], e["height"]) for e in page["images"]] == [(64, 64)] * 2 + [(64, 32)] * 2
    assert page["cfg"] == 3.0 and page["seed"] == 5 and page["task"] == "t2i" and page["model"] == str(model)
    language = text_codec_of(Workflow(undisturbed.recipe))
    sizes = [(64, 64)] * 2 + [(64, 32)] * 2
    ids = [
        encode_prompt(
            [("human", t2i_prompt(w, h, "a red dot"))], [], language.text.encode, language.profile
        ).tolist()
        for w, h in sizes
    ]
    codes = open_sampler(model, language.profile).sample(ids, sizes, cfg=3.0, top_k=2000, seed=5)
    for entry, one in zip(page["images"], codes, strict=True):
        drawn = np.asarray(Image.open(folder / entry["file"]))
        assert (drawn == load_codec("mini", threads=1).decode(one[None])[0]).all()
    assert Image.open(folder / page["grid"]).width > 64 * 4
    assert "4 images in" in printed and str(folder / "grid.png") in printed


@pytest.fixture
def with_settings(undisturbed, tmp_path):
    """The recipe with settings of samples, and three threads for training workers."""
    file = tmp_path / "settings.yaml"
    own = "sample: {cfg: 2, temperature: 0.6, top_k: 100, seed: 7}\n"
    text = undisturbed.recipe_file.read_text().replace("run: {", "run: {steps: {train: {cpus: 3}}, ")
    file.write_text(text + own)
    return file


def test_settings_that_are_not_given_are_the_recipe_s(with_settings, model, tmp_path):
    def sampled(*arguments):
        out = tmp_path / f"out-{len(arguments)}"
        command = ["sample", str(with_settings), "--model", str(model), "--out", str(out), *arguments]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        page = json.loads((out / "samples.json").read_text())
        return [page[name] for name in ("cfg", "temperature", "top_k", "seed")], result.output

    used, printed = sampled("--prompt", "a red dot")
    assert used == [2.0, 0.6, 100, 7]
    assert "guidance 2, temperature 0.6, top-k 100, seed 7" in printed
    used, _ = sampled("--prompt", "a red dot", "--cfg", "1", "--top-k", "5", "--seed", "0")
    assert used == [1.0, 0.6, 5, 0]
    # An edit is as in Lumina-mGPT without guidance, whatever the prompts of the report have.
    used, printed = sampled("--image", str(picture(tmp_path)), "--prompt", "make it red")
    assert used == [1.0, 0.6, 100, 7] and "no guidance, temperature 0.6" in printed


class Watching(Progress):
    """Notes with how many threads torch computes."""

    threads = 0

    def advanced(self, *arguments):
        self.threads = torch.get_num_threads()


def test_the_best_of_several_is_one_of_them(sample):
    prompts = ("--prompt", "a large red circle", "--prompt", "two small green stars")
    page, chosen, printed = sample(*prompts, "--best-of", "3", out="chosen")
    assert page["best_of"] == {"n": 3, "judge": "scene"} and "seed 0, best of 3 by scene" in printed
    assert [entry["prompt"] for entry in page["images"]] == list(prompts[1::2])
    every, folder, _ = sample(*prompts, "--n", "3", "--best-of", "1", out="every")
    assert "best_of" not in every
    for number, entry in enumerate(page["images"]):
        drawn = [folder / one["file"] for one in every["images"][3 * number : 3 * number + 3]]
        scores = [score(np.asarray(Image.open(path)), entry["prompt"]) for path in drawn]
        best = drawn[scores.index(max(scores))]
        assert (chosen / entry["file"]).read_bytes() == best.read_bytes()
        assert entry["score"] == pytest.approx(max(scores), abs=1e-4)


def score(pixels, prompt):
    """All right first, then by the share of facts that hold."""
    verdict = judge(pixels, prompt)
    return float(verdict.all_right) + 1e-3 * np.mean(list(verdict.facts.values()))


def test_a_model_has_the_threads_of_a_training_worker(with_settings, model):
    workflow = Workflow(load_recipe(with_settings))
    request = generate.checked(generate.SampleRequest(prompts=("a dot",), sizes=("64x32",)))
    text_codec, codec = text_codec_of(workflow), load_codec("mini", threads=1)
    trained = load_model(workflow, ModelChoice(folder=model), text_codec)
    before, watching = torch.get_num_threads(), Watching(Console(quiet=True))
    generate.generate(workflow.recipe, trained, text_codec, codec, request, watching)
    assert watching.threads == 3 and torch.get_num_threads() == before


def test_a_model_of_another_vocabulary_is_refused(undisturbed, model, tmp_path):
    """As many ids, which mean other words."""
    folder = tmp_path / "other"
    shutil.copytree(model, folder)
    (folder / "tokenizer.json").write_text(train_text(["zwei gelbe Vierecke"] * 3, 300))
    about = json.loads((folder / "profile.json").read_text())
    (folder / "profile.json").write_text(json.dumps(about | {"first_text_id": about["text0"]}))
    command = ["--model", str(folder), "--prompt", "x", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["sample", str(undisturbed.recipe_file), *command])
    assert "has another text vocabulary than the tokens, so that ids mean different words" in str(
        result.exception
    )


def test_prompts_of_a_file_each_depend_on_their_number_alone(sample, tmp_path):
    (tmp_path / "prompts.txt").write_text("a dot\n\n  two dots \n", encoding="utf-8-sig")
    first, at, _ = sample("--prompts", str(tmp_path / "prompts.txt"), "--batch", "1", out="a")
    _, other, _ = sample("--prompts", str(tmp_path / "prompts.txt"), out="b")
    assert [e["prompt"] for e in first["images"]] == ["a dot", "two dots"]
    for entry in first["images"]:
        assert (at / entry["file"]).read_bytes() == (other / entry["file"]).read_bytes()


def test_an_image_is_reported(sample, tmp_path, undisturbed, model):
    page, folder, printed = sample("--image", str(picture(tmp_path)), "--max-tokens", "12")
    (entry,) = page["images"]
    assert page["task"] == "caption" and "file" not in entry and not (folder / "grid.png").exists()
    assert safe(entry["answer"].splitlines()[0]) in printed
    # The same, by hand: the picture cropped and coded as a corpus's pictures are.
    language, image = text_codec_of(Workflow(undisturbed.recipe)), Image.open(picture(tmp_path))
    pixels = np.array(apply_crop(image, plan_crop(image.size, bucket_sizes(64))))
    codes = load_codec("mini", threads=1).encode(pixels[None])[0]
    ids = encode_prompt(
        [("human", "Describe the image in detail. <|image|>")],
        [codes],
        language.text.encode,
        language.profile,
    )
    profile = language.profile
    text_ids = list(range(profile.text0, profile.vocab_size))
    (answer,) = open_sampler(model, profile).answer([ids.tolist()], text_ids, max_tokens=12)
    assert language.text.decode(answer) == entry["answer"]


def test_text_is_made_of_what_the_tokenizer_can_decode(undisturbed):
    """Of mini, ids 2 and 3 are neither structure nor text."""
    language = text_codec_of(Workflow(undisturbed.recipe))
    ids = language.text.ids
    assert min(ids) == language.profile.text0 and len(ids) >= 256
    assert language.text.decode(ids)


def test_an_untrained_model_answers_in_text(sample, tmp_path):
    """Whatever the seed: ids that decode to nothing are not drawn."""
    image, words = (
        str(picture(tmp_path)),
        ("--text-top-k", "5000", "--temperature", "5", "--max-tokens", "200"),
    )
    for seed in range(3):
        page, *_ = sample("--image", image, "--n", "4", "--seed", str(seed), *words, out=f"out-{seed}")
        assert all(entry["answer"] for entry in page["images"])


def test_an_image_is_edited_into_its_own_bucket(sample, tmp_path):
    page, folder, _ = sample("--image", str(picture(tmp_path)), "--prompt", "make it red")
    (entry,) = page["images"]
    assert page["task"] == "edit" and page["cfg"] == 1.0
    assert (entry["width"], entry["height"]) == (64, 32)  # 100 x 70 lies nearest to it
    assert Image.open(folder / entry["file"]).size == (64, 32)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "nothing is asked for: give --prompt, --prompts or --image"),
        (["--prompt", "x", "--size", "96x64"], "--size 96x64: no bucket of target 64; the nearest is 64x32"),
        (["--prompt", "x", "--size", "big"], "--size big: takes WIDTHxHEIGHT in pixels, as 64x64"),
        (["--prompt", "x", "--task", "paint"], "--task paint: no such task; known: t2i, "),
        (["--prompt", "x", "--task", "multiview"], "--task multiview: answers with several images"),
        (["--prompt", "x", "--task", "edit"], "--task edit: takes an image; it says"),
        (["--image", "x.png", "--task", "t2i"], "--task t2i: takes no image"),
        (["--image", "x.png", "--task", "edit"], "--task edit: needs a prompt for its instruction"),
        (["--image", "x.png", "--prompt", "y", "--task", "depth"], "--task depth: takes no prompt"),
        (["--image", "nowhere.png"], "--image nowhere.png: "),
        (["--prompts", "nowhere.txt"], "--prompts nowhere.txt: "),
        (["--prompt", "x", "--out", "."], "--out .: is not empty: name a new or an empty folder"),
        (["--image", "bomb.png"], "--image bomb.png: "),
        (["--prompt", "x", "--seed", "-1"], "--seed -1: takes 0 or more"),
        (["--prompt", "x", "--stage", "1"], "give either --stage or --model"),
        (["--prompt", "x", "--judge", "tidy"], "--judge tidy: unknown judge 'tidy'; known: scene, clip"),
        (["--image", "x.png", "--best-of", "2"], "--best-of 2: a judge chooses by the prompt alone"),
        (["--prompt", "x", "--ema"], "--ema: is of a stage: give the folder model_ema as --model"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_one_line(undisturbed, model, tmp_path, monkeypatch, arguments, reason):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "x").touch()
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    arguments = [str(bomb) if argument == bomb.name else argument for argument in arguments]
    command = ["sample", str(undisturbed.recipe_file), "--model", str(model), *arguments]
    with pytest.raises(RecipeError) as told:
        CliRunner().invoke(app, command, catch_exceptions=False)
    shown = with_options(told.value).replace(str(bomb), bomb.name)
    assert reason in shown and "\n" not in shown
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["x"]


def test_checkpoints_that_are_not_there_or_are_others(undisturbed, model, tmp_path):
    recipe = undisturbed.recipe
    with pytest.raises(RecipeError, match="the recipe has no train section"):
        model_of_stage(Workflow(recipe))
    trains = recipe.model_validate({**recipe.model_dump(), "train": {"stages": [{"target": 64, "steps": 1}]}})
    with pytest.raises(RecipeError, match="no stage is trained yet: run the steps up to train/1-64 first"):
        model_of_stage(Workflow(trains))
    with pytest.raises(RecipeError, match="there is no average of weights"):
        load_model(Workflow(trains), ModelChoice(average=True), text_codec_of(Workflow(recipe)))
    with pytest.raises(RecipeError, match="stage 2: the recipe has stages 1 to 1"):
        model_of_stage(Workflow(trains), 2)
    for name in ("config.json", "profile.json"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    other = json.loads((model / "profile.json").read_text()) | {"boi": 3}
    (tmp_path / "profile.json").write_text(json.dumps(other))
    result = CliRunner().invoke(
        app, ["sample", str(undisturbed.recipe_file), "--prompt", "x", "--model", str(tmp_path)]
    )
    assert "trained on ids that are not those of the corpus little" in str(result.exception)


def test_without_a_folder_each_time_has_its_own(tmp_path, monkeypatch):
    from rasterloom.pipelines.models.generate import free_folder

    monkeypatch.chdir(tmp_path)
    for name in ("samples", "samples-2", "samples-3"):
        folder = free_folder(None)
        assert str(folder) == name
        folder.mkdir()
        (folder / "grid.png").touch()
