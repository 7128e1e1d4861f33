"""Sentences and exit codes of mistakes on the command line and in recipes."""

import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SOURCE = "corpus: demo\nsources: [{path: pairs.parquet}]\n"
STAGE = "{target: 512, steps: 1}"
COLUMNS = (
    "quality, niqe, min_side, max_side, aspect, area, caption_length, key, shard, url, caption, status, "
    "error, detail, http_status, final_url, attempts, sha256, phash, original_format, original_width, "
    "original_height, original_bytes, format, width, height, task, turns, main"
)
SCORERS = "quality, flatness, aesthetic, clip, classify, nsfw, text_area, language, caption, scene"
ELSEWHERE = "A plug-in must be installed on every machine that runs steps (docs/extending.md)"
STEPS = "pairs, images, scores, selection, text, codes/512, tokens/512, lengths/512, report"
VOCABULARY = "the text vocabulary is not made yet: rasterloom run RECIPE --until text"

# Lines below SOURCE -> what `plan recipe.yaml` says of them. HERE is the recipe's folder.
OF_FIELDS = {
    # names of fields
    "fetsh: {}": "recipe.yaml:3: fetsh: no such field; did you mean fetch?",
    "Fetch: {}": "recipe.yaml:3: Fetch: no such field; did you mean fetch?",
    "tokenise: {}": "recipe.yaml:3: tokenise: no such field; did you mean tokenize?",
    "fetch:\n  robots: true\n  max_sides: 3": (
        "recipe.yaml:5: fetch.max_sides: no such field; did you mean max_side?"
    ),
    "stages: []": "recipe.yaml:3: stages: no such field; did you mean train.stages?",
    f"train: {{epochs: 3, stages: [{STAGE}]}}": (
        "recipe.yaml:3: train.epochs: no such field; did you mean train.stages[].epochs?"
    ),
    "dedup:\n  phash: 4": (
        "recipe.yaml:4: keep.dedup.phash: no such field; known here: exact, phash_radius, semantic, prefer, "
        "memory"
    ),
    "run: {steps: {images: {cpu: 1}}}": (
        "recipe.yaml:3: run.steps.images.cpu: no such field; did you mean cpus?"
    ),
    "tokenize:\n  prompts:\n    depth: {human: x, gtp: y}": (
        "recipe.yaml:5: tokenize.prompts.depth.gtp: no such field; did you mean gpt?"
    ),
    # kinds of values
    "fetch:\n  max_side: wide": "recipe.yaml:4: fetch.max_side: takes a whole number (got 'wide')",
    "fetch:\n  max_side: 1536.5": "recipe.yaml:4: fetch.max_side: takes a whole number (got 1536.5)",
    "fetch:\n  deadline_s: 30s": "recipe.yaml:4: fetch.deadline_s: takes a number (got '30s')",
    "fetch:\n  robots: perhaps": "recipe.yaml:4: fetch.robots: takes true or false (got 'perhaps')",
    "fetch:": (
        "recipe.yaml:3: fetch: takes fields such as max_side, resize, engine, deadline_s, retries "
        "(got nothing)"
    ),
    "fetch: {opt_out_tags: noai}": ("recipe.yaml:3: fetch.opt_out_tags: takes a list: [noai] (got 'noai')"),
    "score: quality": "recipe.yaml:3: score: takes a list: [quality] (got 'quality')",
    "score:\n  - quality\n  - {clip: [x]}": (
        "recipe.yaml:5: score[1].options: takes names with values, {name: value} (got ['x'])"
    ),
    "keep: [quality > 1]": (
        "recipe.yaml:3: keep: takes a rule, or fields such as rule, dedup (got ['quality > 1'])"
    ),
    "tokenize: {targets: 512}": "recipe.yaml:3: tokenize.targets: takes a list: [512] (got 512)",
    "tokenize: {prompts: {depth: 3}}": (
        "recipe.yaml:3: tokenize.prompts.depth: takes text or fields such as human, gpt (got 3)"
    ),
    f"train: {{stages: {STAGE}}}": (
        "recipe.yaml:3: train.stages: takes a list, [a, b] (got {'target': 512, 'steps': 1})"
    ),
    "train: {deepspeed: {bf16: perhaps}, stages: []}": (
        "recipe.yaml:3: train.stages: takes a list of 1 or more (got [])\n"
        "recipe.yaml:3: train.deepspeed.bf16: takes true or false or 'auto' (got 'perhaps')"
    ),
    "run: {cpus: all}": "recipe.yaml:3: run.cpus: takes a whole number (got 'all')",
    "run: {steps: {codes: {memory: lots}}}": (
        "recipe.yaml:3: run.steps.codes.memory: takes an amount of memory, such as 2GB (got 'lots')"
    ),
    "sample: {sizes: [[64, 64, 3]]}": (
        "recipe.yaml:3: sample.sizes[0]: takes a list of 2 at most (got [64, 64, 3])"
    ),
    # bounds
    "fetch: {retries: -1}": "recipe.yaml:3: fetch.retries: takes 0 or more (got -1)",
    "dedup: {phash_radius: 20}": "recipe.yaml:3: keep.dedup.phash_radius: takes 16 or less (got 20)",
    "run: {train_workers: 0}": "recipe.yaml:3: run.train_workers: takes 1 or more (got 0)",
    "tokenize:\n  targets:\n    - 512\n    - 700": (
        "recipe.yaml:4: tokenize.targets: a target is a multiple of 32 pixels; 700 is not"
    ),
    "train: {heldout: 1, stages: [{target: 512, steps: 1}]}": (
        "recipe.yaml:3: train.heldout: takes less than 1 (got 1)"
    ),
    f"train:\n  stages:\n    - {STAGE}\n    - target: 512\n      steps: 1\n      lr: 0": (
        "recipe.yaml:8: train.stages[1].lr: takes more than 0 (got 0)"
    ),
    # names of things
    "fetch: {opt_out_tags: [noia]}": (
        "recipe.yaml:3: fetch.opt_out_tags[0]: takes 'noai', 'noimageai', 'noml', 'noindex' or "
        "'noimageindex' (got 'noia'; did you mean noai?)"
    ),
    "tokenize: {crop: centre}": (
        "recipe.yaml:3: tokenize.crop: takes 'random' or 'center' (got 'centre'; did you mean center?)"
    ),
    f"train: {{optimizer: AdamW, stages: [{STAGE}]}}": (
        "recipe.yaml:3: train.optimizer: takes 'adamw' or 'muon' (got 'AdamW'; did you mean adamw?)"
    ),
    "tokenize: {codec: minni}": (
        "recipe.yaml:3: tokenize.codec: unknown codec 'minni'; did you mean mini? known: mini, "
        "chameleon, movq, llamagen, emu3"
    ),
    "score:\n  - quality\n  - qualty": (
        f"recipe.yaml:5: score[1]: unknown scorer 'qualty'; did you mean quality? known: "
        f"{SCORERS}. {ELSEWHERE}"
    ),
    "score: [{aesthetic: {hed: x}}]": (
        "recipe.yaml:3: score[0]: the score aesthetic has no option 'hed'; did you mean head? known: head, "
        "clip, revision, keep_embeddings"
    ),
    "score: [quality, quality]": "recipe.yaml:3: score: the score quality is named twice",
    "run: {steps: {image: {cpus: 1}}}": (
        "recipe.yaml:3: run.steps: no step over shards is called image, and none trains; did you mean "
        "images? there are pairs, images, scores, selection, captions, codes, prompts, tokens, suite, train"
    ),
    # the keep rule
    "keep: ''": (
        "recipe.yaml:3: keep: the rule must be one SQL expression and nothing else, such as: quality > 0.3 "
        "and aspect < 3"
    ),
    "keep: qualty > 0.5": (
        "recipe.yaml:3: keep: the rule names 'qualty', which is no column; did you mean quality? known: "
        + COLUMNS
    ),
    "keep: aesthetic > 5": (
        "recipe.yaml:3: keep: the rule names 'aesthetic', which is no column; add aesthetic to the scores? "
        "known: " + COLUMNS
    ),
    "keep: quality => 1": (
        "recipe.yaml:3: keep: the rule cannot be used: Catalog Error: Scalar Function with name => does not "
        "exist!; did you mean >= in place of =>?"
    ),
    "keep: quality > 0.3 && aspect < 3": (
        "recipe.yaml:3: keep: the rule must be one SQL expression and nothing else, such as: quality > 0.3 "
        "and aspect < 3; did you mean and in place of &&?"
    ),
    "keep: caption like red": (
        "recipe.yaml:3: keep: the rule names 'red', which is no column; if it is a text, write 'red'; known: "
        + COLUMNS
    ),
    "fetch: {retries: 1}\nkeep: quality > ": (
        "recipe.yaml:4: keep: the rule has a syntax error at character 9, '>': syntax error at or near \">\""
    ),
    "dedup:\n  prefer: qualty": (
        "recipe.yaml:4: keep: dedup.prefer names 'qualty', which is no score; did you mean quality? known: "
        "quality, niqe"
    ),
    # fields that go together
    "train:\n  stages:\n    - {target: 512}": (
        "recipe.yaml:5: train.stages[0]: give one of epochs, steps and tokens"
    ),
    "train:\n  stages:\n    - {target: 512, epochs: 1}\n    - {target: 768, epochs: 1}": (
        "recipe.yaml:6: train.stages[1].target is 768, which tokenize.targets [512] does not name, and the "
        "corpus demo has no tokens of it: name it there, or tokenize the corpus at 768"
    ),
    "run:\n  train_workers: {min: 3, max: 2}": (
        "recipe.yaml:4: run.train_workers: max 2 is smaller than min 3"
    ),
    f"sample: {{ema: true}}\ntrain:\n  stages: [{STAGE}]": (
        "recipe.yaml:3: sample.ema: there is no average of weights; set train.ema"
    ),
    # what is not there
    "fetch: {opt_out: list.txt}": (
        "recipe.yaml:3: fetch.opt_out: HERE/list.txt cannot be read: no such file"
    ),
    "tokenize: {text: nowhere.json}": (
        "recipe.yaml:3: tokenize.text: cannot read HERE/nowhere.json: No such file or directory"
    ),
    f"train: {{stages: [{STAGE[:-1]}, corpus: other@v1}}]}}": (
        "recipe.yaml:3: train.stages[0].corpus: other has no branch, tag or snapshot v1; its branches and "
        "tags: none"
    ),
    # YAML
    "fetch: {retries: 1}\nfetch: {retries: 2}": ("recipe.yaml:4: fetch is given twice, here and in line 3"),
    "fetch:\n\tretries: 1": (
        "recipe.yaml:4: not YAML: found character '\\t' that cannot start any token; indent with spaces, not "
        "with tabs"
    ),
    "keep: a: b": (
        "recipe.yaml:3: not YAML: mapping values are not allowed here; put a value that holds a colon into "
        "quotes, and indent alike"
    ),
    'keep: "quality > 1': (
        "recipe.yaml:3: not YAML: found unexpected end of stream; a quote or a bracket is not closed"
    ),
    "score: [quality": (
        "recipe.yaml:3: not YAML: expected ',' or ']', but got '<stream end>'; a bracket is not closed, or a "
        "comma is missing"
    ),
}

# Whole recipes -> what `plan recipe.yaml` says of them.
OF_RECIPES = {
    "": "recipe.yaml holds no recipe: it takes fields such as corpus: and sources:",
    "pairs.parquet": "recipe.yaml holds no recipe: it takes fields such as corpus: and sources:",
    "corpus: demo": "recipe.yaml: sources: required, but missing",
    "corpus: My Corpus\nsources: [{path: pairs.parquet}]": (
        "recipe.yaml:1: corpus: takes small letters, digits and _, a letter first; a branch, tag or snapshot "
        "after @ (got 'My Corpus')"
    ),
    "corpus: demo\nsources: pairs.parquet": (
        "recipe.yaml:2: sources: takes a list: [pairs.parquet] (got 'pairs.parquet')"
    ),
    "corpus: demo\nsources: [pairs.parquet]": (
        "recipe.yaml:2: sources[0]: takes fields such as path, kind, name, url, caption (got 'pairs.parquet')"
    ),
    "corpus: demo\nsources:\n  - path: pairs.parquet\n  - path: nowhere.parquet": (
        "recipe.yaml:4: sources[1]: HERE/nowhere.parquet: no such file"
    ),
    "corpus: demo\nsources: [{path: ./fotos}]": (
        "recipe.yaml:2: sources[0]: HERE/fotos: no such file or folder"
    ),
    "corpus: demo\nsources: [{path: ./photos}]": "recipe.yaml:2: sources[0]: HERE/photos: no files there",
    "corpus: demo\nsources: [{path: pairs.parquet, caption: text}]": (
        "recipe.yaml:2: sources[0]: HERE/pairs.parquet: no column 'text' for the caption; it has url, caption"
    ),
    "corpus: demo\nsources: [{path: pairs.parquet, kind: parqet}]": (
        "recipe.yaml:2: sources[0].kind: unknown kind 'parqet'; did you mean parquet? known: auto, parquet, "
        "arrow, csv, jsonl, json, txt, conversations, folder, webdataset, img2dataset, hf"
    ),
    "corpus: demo\nsources: [{path: semi.csv}]": (
        "recipe.yaml:2: sources[0]: HERE/semi.csv: no column 'url' for the url; it has url;caption; with "
        'another delimiter, give the source `delimiter: ";"`'
    ),
    "corpus: demo\nsources: [{path: notes.docx}]": (
        "recipe.yaml:2: sources[0]: HERE/notes.docx: unknown kind of file '.docx'; known: .parquet, .arrow, "
        ".feather, .ipc, .csv, .tsv, .jsonl, .ndjson, .json, .txt, .tar"
    ),
    "corpus: demo\nsources: [{path: pairs.parquet, weight: heavy}]": (
        "recipe.yaml:2: sources[0].weight: takes a number above 0 or {column: NAME}, not 'heavy'"
    ),
}

# Command lines -> what they say. good.yaml is a recipe of which nothing has run, and trains a stage.
OF_COMMANDS = {
    "paln good.yaml": "No such command 'paln'. Did you mean 'plan'?  (--help says more)",
    "versions verfy good.yaml": "No such command 'verfy'. Did you mean 'verify'?  (--help says more)",
    "takedown good.yaml list.txt": (
        "No such command 'takedown'. Did you mean 'versions takedown'?  (--help says more)"
    ),
    "tokens good.yaml": "No such command 'good.yaml'. It has show, import.  (--help says more)",
    "run good.yaml --until images,scores": (
        "no step is called images,scores; did you mean scores? the steps: "
        + STEPS.replace("report", "train/1-512, sample, report")
    ),
    "explain 1234 good.yaml": "no recipe at 1234; in that folder: good.yaml, recipe.yaml",
    "run": "Missing argument 'RECIPE'.  (--help says more)",
    "explain good.yaml": "Missing argument 'KEY'.  (--help says more)",
    "keep good.yaml": "Missing option '--try'.  (--help says more)",
    "run good.yaml --until": "Option '--until' requires an argument.  (--help says more)",
    "run good.yaml --untill tokens": "No such option: --untill. Did you mean --until?  (--help says more)",
    "run good.yaml other.yaml": "Got unexpected extra argument(s) (other.yaml)  (--help says more)",
    "run nowhere.yaml": "no recipe at nowhere.yaml; in that folder: good.yaml, recipe.yaml",
    "run nowhere/recipe.yaml": "no recipe at nowhere/recipe.yaml: there is no folder nowhere",
    "run photos": "photos is a folder; a recipe is a file",
    "run pairs.parquet": "pairs.parquet:1: this is not UTF-8 text, as a recipe is",
    "run good.yaml --until token": (
        f"no step is called token; did you mean tokens? the steps: {STEPS.replace('report', 'train/1-512, ')}"
        "sample, report"
    ),
    "plan good.yaml --format tabel": (
        "Invalid value for '--format': 'tabel' is not one of 'table', 'json'. Did you mean table?  (--help "
        "says more)"
    ),
    "run good.yaml --retry timeout": "images is not finished (new): run without --retry first",
    "failures good.yaml --limit 0": ("Invalid value for '--limit': it takes 1 or more  (--help says more)"),
    "failures good.yaml --limit many": (
        "Invalid value for '--limit': it takes a whole number  (--help says more)"
    ),
    "explain good.yaml 1234": "there are no pairs yet: rasterloom run RECIPE --until pairs",
    "keep good.yaml --try 'quality > 1'": (
        "a rule needs the scores of the recipe, and images is not done (new): rasterloom run RECIPE --until "
        "scores"
    ),
    "serve good.yaml": "there are no images yet: rasterloom run RECIPE --until images",
    "serve good.yaml --port 70000": (
        "Invalid value for '--port': it takes 65535 or less  (--help says more)"
    ),
    "tokenize good.yaml --target 500": "--target: a target is a multiple of 32 pixels; 500 is not",
    "tokens show good.yaml 0": "the corpus demo has no tokens yet: rasterloom run RECIPE --until tokens",
    "tokens import nowhere.json --profile chameleon --into good.yaml": (
        "cannot read the record nowhere.json: No such file or directory"
    ),
    "train recipe.yaml": "the recipe trains nothing: it has no train section",
    "train good.yaml --stage 3": "--stage 3: takes all, or a number from 1 to 1 (1-512)",
    "train good.yaml --resume --fresh": "--resume continues and --fresh starts over: give one of them",
    "train good.yaml --mfu 40": "Invalid value for '--mfu': it takes 1 or less  (--help says more)",
    "sample good.yaml": "nothing is asked for: give --prompt, --prompts or --image",
    "sample good.yaml --prompts nowhere.txt": "--prompts nowhere.txt: No such file or directory",
    "sample good.yaml --prompt x": VOCABULARY,
    "evaluate good.yaml --suite scens": (
        "--suite scens: no such suite: did you mean scenes? known: scenes, and files"
    ),
}

# The same of versions; the first makes the catalog.
OF_VERSIONS = {
    "versions log good.yaml --table image": (
        "--table image: no such table; did you mean images? known: pairs, images, scores, selection, "
        "captions, tokens"
    ),
    "versions tag good.yaml v1": "demo has no version yet: rasterloom run RECIPE",
    "versions tag good.yaml 1": ("'1' cannot be a tag: letters, digits, _ . and -, a letter first, not main"),
    "versions show good.yaml v1": "demo has no branch, tag or snapshot v1; its branches and tags: none",
    "versions delete good.yaml v1": "no branch or tag v1 that could be deleted; there are: none",
    "versions diff good.yaml v1 v2": "demo has no branch, tag or snapshot v1; its branches and tags: none",
    "versions gc good.yaml --older-than week": (
        "--older-than: got week, takes an age such as 7d, 12h, 30m or 0"
    ),
    "versions adopt good.yaml image pairs.parquet": (
        "no table image can be imported; did you mean images? it takes pairs, images, scores, selection"
    ),
    "versions adopt good.yaml images nowhere.parquet": "nowhere.parquet: no such file",
    "versions takedown good.yaml list.txt": "there is no file list.txt",
    "versions export good.yaml out --as webdatset": (
        "Invalid value for '--as': 'webdatset' is not one of 'hf', 'webdataset', 'parquet', 'files'. Did you "
        "mean webdataset?  (--help says more)"
    ),
    "versions push good.yaml demo": "demo is no data set of the hub, which is named hf://OWNER/NAME",
    "versions push good.yaml hf://me/demo": (
        "demo@main has no selection: rasterloom run RECIPE --until selection"
    ),
    "report good.yaml --compare other.yaml": (
        "no recipe at other.yaml; in that folder: good.yaml, recipe.yaml"
    ),
    "embeddings good.yaml out": (
        "the step images is not done (new): rasterloom run RECIPE --until selection"
    ),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of the files that the mistakes name, in which they are made."""
    table = pa.table({"url": ["http://a/1.jpg", "http://a/2.jpg"], "caption": ["one", "two"]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    (tmp_path / "semi.csv").write_text("url;caption\nhttp://a/1.jpg;one\n")
    (tmp_path / "notes.docx").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "good.yaml").write_text(f"{SOURCE}train: {{stages: [{STAGE}]}}")
    (tmp_path / "recipe.yaml").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "sentence"),
    [*((SOURCE + lines, said) for lines, said in OF_FIELDS.items()), *OF_RECIPES.items()],
)
def test_a_mistake_in_a_recipe(rasterloom, folder, text, sentence):
    (folder / "recipe.yaml").write_text(text)
    said = rasterloom("plan", "recipe.yaml")
    assert said == (2, "", sentence.replace("HERE", str(folder)) + "\n")


@pytest.mark.parametrize(("command", "sentence"), OF_COMMANDS.items())
def test_a_mistake_on_the_command_line(rasterloom, folder, command, sentence):
    assert rasterloom(*shlex.split(command)) == (2, "", sentence + "\n")


def test_of_versions_that_there_are_not(rasterloom, folder):
    """The catalog is made by the first command that asks for a version."""
    for command, sentence in OF_VERSIONS.items():
        assert rasterloom(*shlex.split(command)) == (2, "", sentence + "\n")
