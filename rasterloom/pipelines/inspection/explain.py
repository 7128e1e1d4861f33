"""Explanation of one image: its source, scores, selection and tokens."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rasterloom.errors import RecipeError
from rasterloom.filtering.rule_verdicts import verdicts
from rasterloom.pipelines.workflow import Workflow
from rasterloom.pipelines.workspace.status import output_files
from rasterloom.recipe.recipe import Recipe
from rasterloom.schema import SCORES, StepKind, in_order
from rasterloom.sources import locator
from rasterloom.storage import parquet_io

DUPLICATES = 5  # keys shown of the rows that an image is kept instead of

Lines = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Chapter:
    """Names and values of one step."""

    title: str
    lines: Lines


def explain(recipe: Recipe, key: str) -> list[Chapter]:
    """Describe the result of each finished step for one pair.

    Args:
        key: of the pair, its first digits, its URL, or the path of its image in the source

    Raises:
        RecipeError: no pair has this key, or more than one
    """
    return tell(Workflow(recipe), key)


def tell(workflow: Workflow, key: str) -> list[Chapter]:
    """Do as `explain`, by a recipe's workflow. Raises RecipeError."""
    return _Story(workflow, key).chapters()


class _Story:
    def __init__(self, workflow: Workflow, key: str) -> None:
        self.corpus = workflow.corpus
        self.states = {step.name: workflow.status(step) for step in workflow.until(StepKind.TOKENS)}
        self.files = {
            name: [file.name for file in output_files(self.corpus, state.step)]
            for name, state in self.states.items()
            if state.done
        }
        if "pairs" not in self.files:
            raise RecipeError("there are no pairs yet", needs="pairs")
        self.pair = self._pair(key)
        self.key = self.pair["key"]
        self.image = self._row("images", without=("image", "more"))
        self.shard = self.image["shard"][0].as_py() if self.image else None

    def chapters(self) -> list[Chapter]:
        chapters = [Chapter("pair", _pair_lines(self.pair))]
        for name, tell in (
            ("images", self._fetched),
            ("scores", self._scored),
            ("selection", self._selected),
        ):
            chapters.append(Chapter(name, tell() if name in self.files else self._not_done(name)))
        for name in self.states:
            if StepKind.of(name) is StepKind.TOKENS:
                chapters.append(Chapter(name, self._tokens(name)))
        return chapters

    def _not_done(self, name: str) -> Lines:
        return (("not done", self.states[name].reason),)

    def _pair(self, key: str) -> dict[str, Any]:
        where = pc.starts_with(pc.field("key"), key.lower())
        found = parquet_io.read_files(self.corpus.store, self.files["pairs"], where)
        if len(found) == 0:
            here = (pc.field("url") == key) | pc.field("path").isin([key, locator.of_file(key)])
            found = parquet_io.read_files(self.corpus.store, self.files["pairs"], here)
        if len(found) == 0:
            raise RecipeError(
                f"no pair has the key, URL or path {key}", hint="the command failures lists keys"
            )
        if len(found) > 1:
            some = ", ".join(found["key"].to_pylist()[:5])
            raise RecipeError(f"{len(found)} pairs have a key, URL or path like {key}: {some}")
        row: dict[str, Any] = found.to_pylist()[0]
        return row

    def _row(self, table: str, without: tuple[str, ...] = (), **more: Any) -> pa.Table | None:
        if table not in self.files:
            return None
        where = pc.field("key") == self.key
        for name, value in more.items():
            where &= pc.field(name) == value
        return parquet_io.read_files(self.corpus.store, self.files[table], where, without=without)

    def _fetched(self) -> Lines:
        if not self.image:
            return (("missing", "the pair has no row in images"),)
        row = self.image.to_pylist()[0]
        listed = ("key", "url", "caption", "thumbnail", "task", "turns", "main")
        lines = _lines({name: value for name, value in row.items() if name not in listed})
        if row["status"] == "ok" and row["width"] is None:
            return (*lines, ("images", "none, it is text alone"))
        if row.get("main") is None:
            return lines
        more = parquet_io.read_more(self.corpus.store, self.files["images"], self.key)
        mine = {**row, "main image": True}
        found = enumerate(in_order(mine, row["main"], more), 1)
        return (*lines, *((f"image {n} of {len(more) + 1}", _image(one)) for n, one in found))

    def _scored(self) -> Lines:
        scores = self._row("scores", shard=self.shard)
        if not scores:
            return (("missing", "the image has no row in scores"),)
        row = scores.drop_columns(SCORES.names).to_pylist()[0]
        return tuple((name, "none" if value is None else _word(value)) for name, value in row.items())

    def _selected(self) -> Lines:
        selection = self._row("selection", shard=self.shard)
        if not selection:
            return (("missing", "the image has no row in selection"),)
        row = selection.to_pylist()[0]
        lines = [("kept", "yes" if row["kept"] else "no"), ("reason", row["reason"])]
        rule = self._rule()
        if rule and self.image and self.image["status"][0].as_py() == "ok":
            scores = self._row("scores", shard=self.shard)
            for verdict in verdicts(rule, self.image, scores):
                counts = "yes, as there is no image" if verdict.passes else "no"
                says = {True: "yes", False: "no", None: f"cannot say, which counts as {counts}"}[verdict.says]
                given = ", ".join(
                    f"{name} {'null' if value is None else _word(value)}"
                    for name, value in verdict.values.items()
                )
                text = verdict.error or says + (f" ({given})" if given else "")
                lines.append((f"rule: {' '.join(verdict.part.split())}", text))
        if row["duplicate_of"]:
            lines += self._instead(row["duplicate_of"])
        duplicates = self._duplicates()
        if duplicates:
            more = f" and {len(duplicates) - DUPLICATES} more" if len(duplicates) > DUPLICATES else ""
            lines.append(("kept instead of", ", ".join(duplicates[:DUPLICATES]) + more))
        return tuple(lines)

    def _rule(self) -> str | None:
        """Keep rule of the present selection, not of the recipe. None if it was imported."""
        record = self.states["selection"].record
        return record.config.get("rule") if record else None

    def _instead(self, key: str) -> list[tuple[str, str]]:
        columns = ["url", "caption", "phash", "original_width", "original_height"]
        where = pc.field("key") == key
        (other,) = parquet_io.read_files(self.corpus.store, self.files["images"], where, columns).to_pylist()
        lines = [
            ("kept instead", key),
            ("its url", other["url"]),
            ("its caption", other["caption"] or ""),
            ("its size", f"{other['original_width']} x {other['original_height']}"),
        ]
        mine = self.image["phash"][0].as_py() if self.image else None
        if mine and other["phash"]:
            bits = (int(mine, 16) ^ int(other["phash"], 16)).bit_count()
            lines.append(("its perceptual hash", f"{other['phash']}, {bits} of 64 bits differ"))
        return lines

    def _duplicates(self) -> list[str]:
        where = pc.field("duplicate_of") == self.key
        found = parquet_io.read_files(self.corpus.store, self.files["selection"], where, ["key"])
        keys: list[str] = found["key"].to_pylist()
        return keys

    def _tokens(self, name: str) -> Lines:
        codes = StepKind.CODES.step(StepKind.part(name))
        if codes not in self.files:
            return self._not_done(codes)
        columns = ["bucket", "width", "height", "task", "n_tokens", "error"]
        where = pc.field("key") == self.key
        rows = parquet_io.read_files(self.corpus.store, self.files[codes], where, columns).to_pylist()
        if not rows:
            return (("none", "only selected images are tokenized"),)
        if name not in self.files:
            return (*_lines(rows[0]), *self._not_done(name))
        return _lines(rows[0])


def _image(one: dict[str, Any]) -> str:
    words = f"{one['width']} x {one['height']} {one['format']}, SHA-256 {one['sha256'][:12]}"
    return f"{words}; it stands for the sample" if "main image" in one else words


def _pair_lines(pair: dict[str, Any]) -> Lines:
    """Columns of a pair, a sample's turns and images one by one."""
    row = dict(pair)
    more, turns = row.pop("more", None), row.pop("turns", None)
    lines = [(name, text) for name, text in _lines(row) if name != "main"]
    if more:
        places = in_order(row["url"] or row["path"], row["main"], more)
        lines += [(f"image {n} of {len(places)}", place) for n, place in enumerate(places, 1)]
    content = json.loads(turns) if turns else {}
    if isinstance(content, list):
        lines += [(turn["from"], turn["value"].replace("\n", "⏎")) for turn in content]
    else:
        lines += [(f"field {name}", _word(value)) for name, value in content.items()]
    return tuple(lines)


def _lines(row: dict[str, Any]) -> Lines:
    """Values of a row that are not null."""
    return tuple((name, _word(value)) for name, value in row.items() if value is not None)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"{len(value)} numbers"
    return str(value)
