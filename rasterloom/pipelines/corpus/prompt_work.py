"""Token ids of captions, for the sequences of one shard."""

from dataclasses import dataclass

import pyarrow.compute as pc

from rasterloom.filtering.caption_rule import passing
from rasterloom.pipelines.corpus.token_work import AnyPlace, AtTarget, load_text
from rasterloom.pipelines.step import Inputs, Shard, ShardResult, ShardSpec
from rasterloom.schema import StepKind
from rasterloom.storage.parquet_io import read_files
from rasterloom.storage.store import Store
from rasterloom.tokenize.caption_prompts import prompt_rows

OF_CODES = ["key", "bucket", "order", "width", "height", "task", "caption", "n_tokens", "loss_spans"]


class PromptsAt(AtTarget):
    """Prompts of one target."""

    tokenize: AnyPlace
    rule: str
    """That a caption must pass."""


@dataclass(frozen=True)
class PromptsSpec(ShardSpec):
    """A file of codes, that of its images, and all captions."""

    codes: str
    images: str
    captions: list[str]
    text: list[str]


def plan_prompts(store: Store, inputs: Inputs, config: PromptsAt) -> list[Shard[PromptsSpec]]:
    """One shard a file of codes, by its name."""
    codes, text = inputs[StepKind.CODES.step(config.target)], [file.name for file in inputs["text"]]
    captions = [
        file.name
        for name, files in inputs.items()
        if StepKind.of(name) is StepKind.CAPTIONS
        for file in files
    ]
    images = {f"{number:06d}": file.name for number, file in enumerate(inputs["images"])}
    shards = []
    for file in codes:
        number = file.name.rpartition("/")[2].partition("-")[0]
        shards.append(
            Shard(number, PromptsSpec(file.name, images[number], captions, text), rows=max(1, file.rows))
        )
    return shards


def make_prompts(store: Store, spec: PromptsSpec, config: PromptsAt) -> ShardResult:
    """Rows of ``schema.PROMPTS`` for the sequences that have captions."""
    rows = read_files(store, [spec.codes], pc.field("error").is_null(), OF_CODES)
    shards = pc.unique(read_files(store, [spec.images], columns=["shard"])["shard"])
    where = pc.field("shard").isin(shards) & pc.field("error").is_null()
    by_key: dict[str, list[tuple[str, str]]] = {}
    if spec.captions:
        captions = read_files(store, spec.captions, where)
        for row in passing(captions, config.rule).select(["key", "name", "caption"]).to_pylist():
            by_key.setdefault(row["key"], []).append((row["name"], row["caption"]))
    text, profile = load_text(store, spec.text[0], config.tokenize)
    return prompt_rows(rows, by_key, text, profile, config.tokenize)
