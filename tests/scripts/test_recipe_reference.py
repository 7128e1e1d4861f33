"""docs/recipe.md and docs/recipe.schema.json are what the models say, and what they say is true."""

import copy
import importlib.util
import json
import re
from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from docblocks import blocks, recipe_of

from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]
NEW = {  # another value, where the schema does not suggest one, and what else it takes
    "corpus": "other",
    "run.notify": ["end"],
    "workspace": "elsewhere",
    "catalog": {"type": "sql", "uri": "sqlite:///c.db"},
    "sources.path": "others.parquet",
    "sources.kind": "parquet",
    "sources.url": "link",
    "sources.caption": "words",
    "sources.image": "pixels",
    "sources.input": "picture",
    "sources.output": "picture",
    "sources.root": "/",
    "sources.columns": None,  # of lists as text, as the next
    "sources.delimiter": None,
    "sources.quote": None,
    "sources.escape": None,
    "sources.encoding": None,
    "sources.licence": "CC0-1.0",
    "sources.task": "caption",
    "fetch.engine": None,  # the other one is not installed everywhere
    "fetch.opt_out": "list.txt",
    "fetch.md5": "words",
    "fetch.sha256": "words",
    "fetch.allow_hosts": ["127.0.0.1:80"],
    "fetch.opt_out_tags": [],
    "score.name": "flatness",
    "score.options": None,  # those of scorers that take weights
    "keep.rule": "min_side >= 64",
    "keep.dedup.prefer": "quality",
    "keep.dedup.semantic": None,  # takes a CLIP's weights
    "caption.keep": "words > 3",
    "caption.by.local.path": None,  # this and the others of `local` take a model
    "caption.by.local.max_side": None,
    "caption.by.local.max_tokens": None,
    "caption.by.local.precision": None,
    "caption.by.local.batch": None,
    "caption.by.field": None,  # takes the place of an endpoint
    "caption.by.answers": ["short"],
    "caption.by.endpoint.url": "http://127.0.0.1:8001/v1",
    "caption.by.endpoint.key": "OTHER_KEY",
    "caption.by.endpoint.options": {"seed": 1},
    "train.captions": {"alt": 1},
    "train.stages.captions": {"alt": 1},
    "tokenize.codec": None,  # the others take weights
    "tokenize.weights": None,
    "tokenize.text": None,
    "tokenize.precision": None,
    "tokenize.targets": [64, 96, 128],
    "tokenize.prompts.human": {"human": "Why? <|image|>", "gpt": "So."},
    "tokenize.prompts.gpt": {"human": "How many? <|image|>", "gpt": "None."},
    "tokenize.prompt_target": 64,
    "tokenize.view_side": 64,
    "train.init": "small",
    "train.trackers": [],
    "train.optimizer": None,  # muon takes other settings
    "train.stages.mixture.corpus": None,  # takes a version that is there
    "train.stages.corpus": None,
    "train.stages.epochs": None,  # take the place of steps
    "train.stages.tokens": None,
    "train.stages.target": 96,
    "train.stages.min_lr": 1e-4,
    "train.stages.schedule": "linear",
    "train.stages.mixture.target": 96,
    "train.stages.freeze": ["norms"],
    "train.stages.mixture.tasks": ["t2i"],
    "train.stages.optimizer_state": None,  # takes a stage before
    "train.stages.deepspeed.config": None,  # the same as extra
    "train.stages.deepspeed.extra": {"steps_per_print": 7},
    "train.profile.steps": [2, 3],
    "train.model.lora.targets": ["q_proj"],
    "train.deepspeed.zero": 2,
    "train.deepspeed.config": None,  # the same as extra
    "train.deepspeed.extra": {"steps_per_print": 7},
    "sample.prompts": ["a dog"],
    "sample.sizes": [[64, 64]],
    "sample.best_of.judge.name": None,  # the others take weights
    "sample.best_of.judge.options": None,
    "sample.suite.prompts": None,  # there is one
    "sample.suite.size": [64, 64],
    "evaluate.suites.size": [64, 64],
    "evaluate.suites.name": "other",
    "evaluate.suites.judges.options": {"clip": "other"},
    "run.ray_address": "127.0.0.1:6379",
    "run.train_workers": 1,
    "run.steps.memory": "1GB",
    "run.steps.resources": {"fetch": 1},
    "run.steps.actors": 2,
    "run.steps.placement": None,  # of training workers
    "run.driver.memory": "1GB",
    "run.driver.resources": {"steady": 1},
}
BELOW = {  # where a section is a list or a table: the item that is changed
    "sources": 0,
    "score": 0,
    "by": 0,
    "stages": 0,
    "mixture": 0,
    "suites": 0,
    "judges": 0,
    "prompts": "count",
    "steps": "codes",
}


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts" / "recipe_reference.py"
    spec = importlib.util.spec_from_file_location("recipe_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["recipe.md", "recipe.schema.json"])
def test_it_is_as_the_models_say(script, name):
    made = script.reference() if name.endswith("md") else json.dumps(script.schema(), indent=1) + "\n"
    assert (ROOT / "docs" / name).read_text() == made, "python scripts/recipe_reference.py writes it anew"


def test_every_recipe_here_fits_the_schema(script):
    files = [*ROOT.glob("examples/*.yaml"), *ROOT.glob("infra/s3/catalogs/*.yaml")]
    recipes = {path: yaml.safe_load(path.read_text()) for path in files}
    recipes |= {str(block): recipe_of(block) for block in blocks() if block.kind == "yaml"}
    check = jsonschema.Draft202012Validator(script.schema())
    for name, recipe in recipes.items():
        text = json.dumps(recipe).replace('"true": ', '"on": ')  # as editors read YAML, by its version 1.2
        plain = json.loads(re.sub(r'"([\d.]+e\d+)"', r"\1", text))
        assert not [error.message for error in check.iter_errors(plain)], name
    wrong = {"corpus": "a", "sources": [{"path": "p", "kind": 3}], "fetch": {"deadlines": 1}}
    assert len(list(check.iter_errors(wrong))) == 2


def fields(script):
    """Every field of the page by its path, with its schema; a section is its fields."""
    whole = Recipe.model_json_schema()

    def walk(model, above):
        for name, field in model["properties"].items():
            sections = [ref for ref in script._refs(field) if ref not in script.INLINE]
            if not sections:
                yield f"{above}{name}", field
            for ref in sections:
                yield from walk(whole["$defs"][ref], f"{above}{name}.")

    return dict(walk(whole, ""))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A recipe that has every section."""
    folder = tmp_path_factory.mktemp("reference")
    columns = ("url", "caption", "link", "words", "picture")
    for number, name in enumerate(("pairs", "others")):
        table = pa.table({column: [f"http://a.test/{number}.jpg"] for column in columns})
        pq.write_table(table.append_column("pixels", pa.array([b"..."])), folder / f"{name}.parquet")
    (folder / "list.txt").write_text("a.test\n")
    stage = {"target": 64, "steps": 5, "lr": 1e-3, "schedule": "wsd"}
    return {
        "corpus": "demo",
        "workspace": str(folder / "work"),
        "sources": [{"path": str(folder / "pairs.parquet")}],
        "score": [{"name": "quality", "options": {}}],
        "caption": {
            "by": [{"name": "vlm", "endpoint": {"url": "http://a.test/v1", "model": "eye", "usd_in": 1}}]
        },
        "tokenize": {"targets": [64, 96], "prompts": {"count": {"human": "How many? <|image|>", "gpt": "1"}}},
        "train": {
            "stages": [
                stage,
                {"mixture": [{"target": 64, "weight": 1}, {"target": 96, "weight": 1}], "steps": 5},
            ],
            "deepspeed": {"zero": 1},
            "ema": {"decay": 0.9},
        },
        "sample": {
            "prompts": ["a cat"],
            "suite": {"size": [96, 96]},
        },
        "evaluate": {"suites": [{"name": "drawn", "judges": [{"name": "scene"}]}]},
        "run": {"steps": {"codes": {"cpus": 1}}, "price": {"cpu": 0.05}},  # max_usd takes a price
    }


def another(path, field):
    """Another value than the default."""
    if path in NEW:
        return NEW[path]
    kinds = [one for one in field.get("anyOf", [field]) if one.get("type") != "null"]
    kind, default = kinds[0], field.get("default")
    if "enum" in kind:
        return next(value for value in kind["enum"] if value != default)
    if "const" in kind:
        return kind["const"]
    if kind["type"] == "boolean":
        return not default
    if kind["type"] == "integer":
        return max(default if isinstance(default, int) else 0, kind.get("minimum", 0)) + 1
    if kind["type"] == "number":
        return default / 2 if default else 0.25 if "maximum" in kind or "exclusiveMaximum" in kind else 1.5
    assert kind["type"] == "string", path
    return "other"


def changed(base, path, value):
    """The recipe with one field changed."""
    recipe = copy.deepcopy(base)
    *above, name = path.split(".")
    if above[:2] == ["tokenize", "prompts"]:
        recipe["tokenize"]["prompts"]["count"] = value
        return recipe
    at = recipe
    for part in above:
        if part == "mixture":
            at = recipe["train"]["stages"][1]
        at = at.setdefault(part, {})
        at = at[BELOW[part]] if part in BELOW else at
    at[name] = value
    return recipe


def fingerprints(data):
    return {step.name: step.fingerprint for step in Workflow(Recipe.model_validate(data)).steps}


def test_what_runs_again_is_what_the_page_says(base, script):
    before = fingerprints(base)
    wrong = {}
    for path, field in fields(script).items():
        value = another(path, field)
        if value is None:
            continue
        if path in ("sources.path", "fetch.opt_out"):
            value = str(Path(base["workspace"]).parent / value)
        after = fingerprints(changed(base, path, value))
        again = [name for name in after if after[name] != before.get(name) and name != "report"]
        first = again[0].split("/")[0] if again else script.NOTHING
        if path.startswith("train.stages.") and again:
            stage = "2-" if ".mixture." in path else "1-"
            first = "that stage" if again[0].startswith(f"train/{stage}") else again[0]
        said = script._runs_again(path).split(",")[0].split(" of ")[0].strip("`")
        nothing = dict.fromkeys(("another corpus", "another place"), script.NOTHING)
        if first != nothing.get(said, {"the first stage": "train"}.get(said, said)):
            wrong[path] = (said, again)
    assert not wrong


def test_the_values_of_that_test_are_of_fields_that_there_are(script):
    assert set(NEW) <= set(fields(script))
