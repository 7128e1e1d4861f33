"""Writes docs/recipe.md and docs/recipe.schema.json from the models of rasterloom/recipe/.

Run it after changing a field of a recipe: `python scripts/recipe_reference.py`.
"""

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from rasterloom.recipe.captions import Endpoint, LocalModel
from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.train import SPEED_ONLY, Train

DOCS = Path(__file__).parents[1] / "docs"
SCHEMA = "https://raw.githubusercontent.com/rasterloom/rasterloom/main/docs/recipe.schema.json"
HEAD = """# The recipe, field by field

`python scripts/recipe_reference.py` writes this page from the models in `rasterloom/recipe/`: edit it
there. A recipe is one YAML file, checked before anything runs; an error names the field, what it got and
what it takes. A field that is not known is an error, too.

*Runs again* names the first step that is done anew when the field changes, and with it all that follows
from it ([architecture.md](architecture.md) has the order). "-" is what only says how fast, or how
closely a run is watched. `rasterloom plan` says it of your change before you run it. The report is
written anew after any change but those of `run` and `catalog`.

Short forms: `keep: "quality >= 0.3"` is `keep: {rule: ...}`, `dedup:` may stand at the top, a scorer is its
name or `{name: {options}}`, and `caption:` may be the list of its captioners.

## In an editor

[`recipe.schema.json`](recipe.schema.json) is the JSON schema of a recipe. With the YAML extension of VS
Code (`redhat.vscode-yaml`), and with other editors that speak to yaml-language-server, this line at the
top of a recipe completes its fields, shows what they mean, and underlines what is wrong:

```yaml
# yaml-language-server: $schema=SCHEMA
corpus: clipart
sources: [{path: pairs.parquet}]
```
"""
NOTHING = "-"
# By field or by what is above it: the nearest name counts.
RUNS_AGAIN = {
    "corpus": "another corpus",
    "workspace": "another place",
    "catalog": NOTHING,
    "sources": "`pairs`",
    "sources.path": "`pairs`, if another content lies there",
    "sources.root": NOTHING,
    "fetch": "`images`",
    "score": "`scores`",
    "keep": "`selection`",
    "caption": "`captions` of that captioner",
    "caption.keep": "`prompts`",
    "caption.shard_rows": NOTHING,
    "caption.by.local.path": "`captions` of that captioner, if it holds other weights",
    "tokenize": "`codes`",
    "tokenize.weights": "`codes`, if they hold something else",
    "tokenize.text": "`text`, if it holds something else",
    "tokenize.text_vocab": "`text`",
    "tokenize.targets": "`codes` of a new target",
    "train": "the first stage",
    "train.stages": "that stage",
    "sample": "`sample`",
    "evaluate": NOTHING,
    "run": NOTHING,
}
RUNS_AGAIN |= {
    f"caption.by.{section}.{name}": NOTHING
    for section, model in (("endpoint", Endpoint), ("local", LocalModel))
    for name, field in model.model_fields.items()
    if field.exclude and name != "path"
}
RUNS_AGAIN |= {f"train.{name}": NOTHING for name, field in Train.model_fields.items() if field.exclude}
RUNS_AGAIN |= {f"train.{name}": NOTHING for name, which in SPEED_ONLY.items() if which is True}
RUNS_AGAIN |= {
    f"train.{part}.{name}": NOTHING for part in ("model", "deepspeed") for name in SPEED_ONLY[part]
}
RUNS_AGAIN |= {f"train.stages.deepspeed.{name}": NOTHING for name in SPEED_ONLY["deepspeed"]}
RUNS_AGAIN |= {"train.deepspeed.config": "the first stage", "train.stages.deepspeed.config": "that stage"}
RUNS_AGAIN |= {"train.init": "the first stage, if it holds other weights", "train.stages.guard": NOTHING}

INLINE = {"Column": "`{column: NAME}`", "Between": "`{min, max}`"}  # sections too small for a table
TAKES = {  # where the schema's own words are no help to a person
    "corpus": "`name`, `name@branch`, `name@tag` or `name@snapshot`",
    "train.stages.corpus": "`name@tag` or `name@snapshot`",
    "train.stages.mixture.corpus": "`name@tag` or `name@snapshot`",
    "run.steps.memory": "a size such as `2GB`, or `null`",
    "run.driver.memory": "a size such as `2GB`, or `null`",
    "keep": "the rule, or a [section](#keep)",
    "score": "list of names or of [sections](#score)",
    "caption": "list of [captioners](#captionby), a [section](#caption), or `null`",
    "sample.best_of.judge": "a name, or a [section](#samplebest_ofjudge)",
    "evaluate.suites.judges": "list of names or of [sections](#evaluatesuitesjudges)",
}
TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "null": "`null`",
}


class Untitled(GenerateJsonSchema):
    """Fields have names and descriptions; pydantic's titles are the names once more."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe, its short forms included."""
    whole = Recipe.model_json_schema(schema_generator=Untitled)
    defs, fields = whole["$defs"], whole["properties"]
    whole["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    whole["description"] = (
        "A recipe of Rasterloom: what a corpus is made of and how a model is trained on it."
    )
    fields["keep"] = {"anyOf": [{"type": "string"}, fields["keep"]]}
    fields["dedup"] = {"$ref": "#/$defs/Dedup", "description": defs["Dedup"]["description"]}
    captioners = {"type": "array", "items": {"$ref": "#/$defs/Captioner"}, "minItems": 1}
    fields["caption"] = {**fields["caption"], "anyOf": [captioners, *fields["caption"]["anyOf"]]}
    named = {"type": "object", "minProperties": 1, "maxProperties": 1}
    by_name = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Score"}, named]}
    for listed in (fields["score"], defs["Suite"]["properties"]["judges"]):
        listed["items"] = by_name
    judge = defs["BestOf"]["properties"]["judge"]
    judge |= by_name
    judge.pop("$ref", None)
    defs["Between"] = {"anyOf": [{"type": "integer", "minimum": 1}, defs["Between"]]}
    return whole


def reference() -> str:
    """The page: a table of fields for each section, in the order of the recipe."""
    whole = Recipe.model_json_schema()
    sections = _sections(whole, whole["$defs"], "")
    return "\n".join([HEAD.replace("SCHEMA", SCHEMA), "## At the top\n", _table(whole, ""), *sections])


def _sections(model: dict[str, Any], defs: dict[str, Any], above: str) -> list[str]:
    parts = []
    for name, field in model["properties"].items():
        section = next((ref for ref in _refs(field) if ref not in INLINE), None)
        if section:
            path = f"{above}{name}"
            parts += [f"## `{path}`\n", f"{_text(defs[section]['description'])}\n"]
            parts += [_table(defs[section], f"{path}."), *_sections(defs[section], defs, f"{path}.")]
    return parts


def _refs(field: Any) -> list[str]:
    """The sections that a field takes, wherever they stand in its schema."""
    if isinstance(field, list):
        return [ref for item in field for ref in _refs(item)]
    if not isinstance(field, dict):
        return []
    here = [field["$ref"].rpartition("/")[2]] if "$ref" in field else []
    return here + [ref for key, item in field.items() if key != "default" for ref in _refs(item)]


def _table(model: dict[str, Any], above: str) -> str:
    lines = ["| field | takes | default | what it is | runs again |", "|---|---|---|---|---|"]
    fields = sorted(model["properties"].items(), key=lambda item: _runs_again(above + item[0]) == NOTHING)
    for name, field in fields:
        path = f"{above}{name}"
        cells = (
            f"`{name}`",
            TAKES.get(path) or _takes(field, path),
            _default(field, name in model.get("required", ())),
            _text(field["description"]),
            _runs_again(path),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _takes(field: dict[str, Any], path: str) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return INLINE.get(name) or f"[section](#{path.replace('.', '')})"
    if "anyOf" in field:
        return " or ".join(_takes(one, path) for one in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])} {TYPES[field['prefixItems'][0]['type']]}s"
    if field.get("type") == "array":
        return f"list of {_takes(field['items'], path)}"
    if field.get("type") == "object":
        values = field["additionalProperties"]
        return f"names, each with {_takes(values, path)}" if isinstance(values, dict) else "names with values"
    return TYPES[field["type"]] + _range(field)


def _range(field: dict[str, Any]) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    words = [f" ≥ {low:,}"] if low is not None else []
    words += [f" > {field['exclusiveMinimum']:,}"] if "exclusiveMinimum" in field else []
    words += [f" ≤ {high:,}"] if high is not None else []
    words += [f" < {field['exclusiveMaximum']:,}"] if "exclusiveMaximum" in field else []
    return ",".join(words)


def _default(field: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    value = field.get("default", {})
    if isinstance(value, dict) and (value or "additionalProperties" not in field):
        return "its fields' own" if "min" not in value else f"`{value['min']}`"
    return f"`{value:_}`" if type(value) is int else f"`{json.dumps(value)}`"


def _text(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _runs_again(path: str) -> str:
    while path not in RUNS_AGAIN:
        path = path.rpartition(".")[0]
    return RUNS_AGAIN[path]


if __name__ == "__main__":
    (DOCS / "recipe.md").write_text(reference(), encoding="utf-8")
    (DOCS / "recipe.schema.json").write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
