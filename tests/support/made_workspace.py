"""A small corpus as the steps leave it: real tables, real pictures, plausible failures."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageOps

from rasterloom.recipe.recipe import Recipe
from rasterloom.recipe.sources import Source
from rasterloom.report.queries import Tables
from rasterloom.report.report_page import ReportInputs
from rasterloom.schema import IMAGES, PAIRS, SCORES, SELECTION, TOKENS, bucket_name, pair_key
from rasterloom.versions.commit import commit
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record

BLOCK = 8  # pixels a code
SCORE_SCHEMA = pa.schema([*SCORES, ("quality", pa.float64()), ("flatness", pa.float64())])
WITH_EMBEDDINGS = SCORE_SCHEMA.append(pa.field("clip_embedding", pa.list_(pa.float32())))


@dataclass(frozen=True)
class Item:
    """A pair and what became of it: a picture, or a class of error."""

    url: str
    caption: str
    image: Image.Image | None = None
    error: str = ""
    detail: str = ""
    reason: str = "kept"
    quality: float = 5.0
    duplicate_of: str | None = None  # the key of another item

    @property
    def key(self) -> str:
        return pair_key(self.url, self.caption)


def embedding(item: Item) -> list[float]:
    """Three numbers that differ from image to image."""
    digits = np.array([int(item.key[i : i + 4], 16) for i in (0, 4, 8)])
    return (digits / 2**15 - 1).tolist()


def encode(image: Image.Image, size: tuple[int, int]) -> list[int]:
    """A codec of one code a block: its mean colour in 15 bits, after width and height."""
    blocks = ImageOps.fit(image.convert("RGB"), size).resize((size[0] // BLOCK, size[1] // BLOCK))
    red, green, blue = (np.asarray(blocks, np.int32) >> 3).transpose(2, 0, 1)
    return [*blocks.size, *(red << 10 | green << 5 | blue).ravel().tolist()]


def decode(ids: list[int]) -> Image.Image:
    width, height, *codes = ids
    grid = np.array(codes, np.int32).reshape(height, width)
    pixels = np.stack([grid >> 10 & 31, grid >> 5 & 31, grid & 31], -1) << 3
    blocks = Image.fromarray(pixels.astype(np.uint8))
    return blocks.resize((width * BLOCK, height * BLOCK), Image.Resampling.BICUBIC)


def bucket_of(size: tuple[int, int], target: int) -> tuple[int, int]:
    """The bucket nearest in aspect of about ``target`` squared pixels."""
    ratio = size[0] / size[1]
    shapes = [(target * a // 4, target * 4 // a) for a in (2, 3, 4, 5, 6, 8)]
    rounded = [(w // 32 * 32 or 32, h // 32 * 32 or 32) for w, h in shapes]
    return min(rounded, key=lambda s: abs(np.log(s[0] / s[1] / ratio)))


@dataclass
class Workspace:
    """Commits the tables of some items to a corpus, as steps would."""

    folder: Path
    shard_rows: int = 50
    score_schema: pa.Schema = SCORE_SCHEMA
    records: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        recipe = Recipe(corpus="scenes", workspace=str(self.folder), sources=(Source(path="pairs.parquet"),))
        self.corpus = Corpus.of(recipe)

    def publish(
        self, step: str, table: str, schema: pa.Schema, parts: Sequence[pa.Table], **more: Any
    ) -> None:
        """Write each part to a file, and commit them as one version."""
        place = f"{self.corpus.name}/staging/{step}/{len(self.records):02d}"
        names = [f"{place}-{i}.parquet" for i in range(len(parts))]
        sizes = [
            self.corpus.store.write_parquet(name, part, row_group_size=16)
            for name, part in zip(names, parts, strict=True)
        ]
        record = self.record(step, rows=sum(p.num_rows for p in parts), n_bytes=sum(sizes), **more)
        replaces = f"target == {step.split('/')[1]}" if table == "tokens" else ""
        split = ("target", "bucket") if table == "tokens" else ()
        commit(self.corpus, table, schema, names, record, replaces=replaces, partition_by=split)

    def record(self, step: str, *, inputs: Sequence[str] = (), **found: Any) -> Record:
        given = {r.step: r.fingerprint for r in self.records if r.step in inputs}
        config = found.pop("config", {"step": step})
        seconds = 1.0 + found.get("rows", 0) / 40
        made = Record(
            step,
            f"{len(self.records):02d}{step.encode().hex():0<18}"[:20],
            "1",
            config,
            given,
            seconds=seconds,
            worker_seconds=1.8 * seconds,
            shards=3,
            **found,
        ).signed("feedc0de", "0.1.0")
        self.records.append(made)
        return made

    def fill(self, items: Sequence[Item], targets: Sequence[int] = (64, 128)) -> None:
        """Make all tables of these items."""
        shard = {item.key: i // self.shard_rows for i, item in enumerate(items)}
        rows = [
            {"key": i.key, "url": i.url, "caption": i.caption, "source": "test", "meta": "{}"} for i in items
        ]
        self.publish("pairs", "pairs", PAIRS, [pa.Table.from_pylist(rows, PAIRS)])
        images = [_image_row(item, shard[item.key]) for item in items]
        parts = [
            pa.Table.from_pylist(images[i : i + self.shard_rows], IMAGES)
            for i in range(0, len(images), self.shard_rows)
        ]
        outcomes = Counter(item.error or "ok" for item in items)
        self.publish("images", "images", IMAGES, parts, inputs=["pairs"], counts=dict(outcomes))
        scores = [
            {"key": i.key, "shard": shard[i.key], "quality": i.quality, "flatness": i.quality % 1 + 0.1}
            | {"clip_embedding": embedding(i)}
            for i in items
            if i.image
        ]
        made = pa.Table.from_pylist(scores, self.score_schema)
        self.publish("scores", "scores", self.score_schema, [made], inputs=["images"])
        reasons = [f"failed: {i.error}" if i.error else i.reason for i in items]
        selection = [
            {
                "key": i.key,
                "shard": shard[i.key],
                "kept": reason == "kept",
                "reason": reason,
                "duplicate_of": i.duplicate_of,
            }
            for i, reason in zip(items, reasons, strict=True)
        ]
        made = pa.Table.from_pylist(selection, SELECTION)
        given = ["images", "scores"]
        self.publish("selection", "selection", SELECTION, [made], inputs=given, counts=dict(Counter(reasons)))
        for target in targets:
            self._tokens(items, target)

    def _tokens(self, items: Sequence[Item], target: int) -> None:
        kept = [i for i in items if i.image and i.reason == "kept"]
        buckets: dict[str, list[dict[str, Any]]] = {}
        for item in kept:
            assert item.image is not None
            width, height = bucket_of(item.image.size, target)
            ids = encode(item.image, (width, height))
            row = {"target": target, "bucket": bucket_name(width, height), "key": item.key}
            row |= {"width": width, "height": height, "task": "t2i", "input_ids": ids}
            row |= {"loss_spans": [0, len(ids)], "n_tokens": len(ids), "caption": item.caption}
            buckets.setdefault(row["bucket"], []).append(row | {"quality": item.quality})
        parts = [pa.Table.from_pylist(rows, TOKENS) for _, rows in sorted(buckets.items())]
        self.record(f"codes/{target}", inputs=["images", "scores", "selection"], rows=len(kept))
        self.publish(f"tokens/{target}", "tokens", TOKENS, parts, inputs=[f"codes/{target}"])

    def train(self, name: str, *, steps: int = 60, start: float = 6.5) -> tuple[str, Path]:
        """A stage's folder: a loss that falls, and the held-out loss of three buckets."""
        folder = self.folder / "train" / name
        folder.mkdir(parents=True)
        noise = np.random.default_rng(0).normal(0, 0.06, steps)
        with (folder / "metrics.jsonl").open("w") as file:
            for i in range(steps):
                loss = 2.4 + (start - 2.4) * np.exp(-5 * i / steps) + noise[i]
                row = {"step": i + 1, "loss": loss, "z_loss": 0.01, "lr": 1e-3, "grad_norm": 1.2}
                file.write(
                    json.dumps(row | {"tokens": 8192, "tokens_per_s": 9000.0, "useful_share": 0.97}) + "\n"
                )
        buckets = {
            name: {"loss": loss, "tokens": 4000, "rows": 12}
            for name, loss in (("64x64", 2.6), ("96x32", 2.9), ("32x96", 2.8))
        }
        whole = {"loss": 2.71, "tokens": 12000, "rows": 36}
        tasks = {"t2i": whole | {"loss": 2.75, "rows": 30}, "<edit>": whole | {"loss": 2.51, "rows": 6}}
        after = {"all": whole, "tasks": tasks, "buckets": buckets}
        before = {"all": whole | {"loss": start}, "tasks": {}, "buckets": {}}
        moments = {"0": before, str(steps // 2): {"all": whole | {"loss": 3.1}}, str(steps): after}
        (folder / "heldout.json").write_text(json.dumps({"start": before, "end": after, "steps": moments}))
        (folder / "evaluation.json").write_text(json.dumps(evaluation(name, after)))
        draw_on_the_way(folder, (20, 40, steps))
        given = [r.step for r in self.records if r.step.startswith("train/")][-1:]
        self.record(
            f"train/{name}", inputs=[*given, f"tokens/{name.split('-')[-1]}"], counts={"steps": steps}
        )
        return name, folder

    def sample(self, images: Sequence[tuple[str, Image.Image]]) -> Path:
        """A folder of drawn samples."""
        folder = self.folder / "samples"
        folder.mkdir()
        listed = []
        for i, (prompt, image) in enumerate(images):
            image.save(folder / f"{i:03d}.png")
            row = {"file": f"{i:03d}.png", "prompt": prompt, "width": image.width, "height": image.height}
            listed.append(row | {"seed": i})
        Image.new("RGB", (128, 64), "teal").save(folder / "grid.png")
        skill = {"right": 57, "asked": 60, "low": 0.863, "high": 0.983}
        suite = {"name": "scenes", "prompts": 15, "seeds": 4, "skills": {"colour": skill, "all": skill}}
        found = {"grid": "grid.png", "images": listed, "suite": suite}
        found |= {"rows_line_up": {"right": 20, "asked": 20}, "cfg": 3.0, "temperature": 1.0, "top_k": 2000}
        (folder / "samples.json").write_text(json.dumps(found))
        self.record("sample", inputs=[r.step for r in self.records if r.step.startswith("train/")][-1:])
        return folder

    def tables(self, **snapshots: int) -> Tables:
        """The tables at their current versions, or at the given ones."""
        return Tables(self.corpus, self.inputs().snapshots | snapshots)

    def inputs(self, stages: Sequence[tuple[str, Path]] = (), samples: Path | None = None) -> ReportInputs:
        names = ("pairs", "images", "scores", "selection", "tokens")
        found = {name: self.corpus.snapshot_id(name) for name in names}
        snapshots = {name: snapshot for name, snapshot in found.items() if snapshot is not None}
        return ReportInputs(
            self.corpus, snapshots, tuple(self.records), tuple(stages), samples, decode, "corpus: scenes\n"
        )


def evaluation(name: str, heldout: dict[str, Any]) -> dict[str, Any]:
    """Content of the file that `rasterloom evaluate` leaves beside a stage."""
    return {
        "target": int(name.split("-")[-1]),
        "codec": {"psnr": 24.04, "ssim": 0.812, "pictures": 36},
        "clip_of_heldout": 0.31,
        "drawn": 36,
        "clip_dimensions": 512,
        "checkpoints": [{"name": name, "heldout": heldout, "clip": 0.27, "clip_fd": 0.123}],
        "notes": ["CLIP-FD is of few <pictures>."],
    }


def draw_on_the_way(folder: Path, steps: Sequence[int]) -> None:
    """Draw images of two prompts at some steps of a stage."""
    (folder / "samples").mkdir()
    for step in steps:
        record = {"step": step, "prompts": ["a <dot>", "two dots"]}
        (folder / "samples" / f"step-{step:08d}.json").write_text(json.dumps(record))
        for number in (0, 1):
            Image.new("RGB", (64, 32), (step, 0, 0)).save(
                folder / "samples" / f"step-{step:08d}-{number}.png"
            )


def _image_row(item: Item, shard: int) -> dict[str, Any]:
    row = {"key": item.key, "shard": shard, "url": item.url, "caption": item.caption, "attempts": 1}
    if item.image is None:
        return row | {"status": "failed", "error": item.error, "detail": item.detail}
    buffer = io.BytesIO()
    item.image.save(buffer, "JPEG", quality=92)
    width, height = item.image.size
    row |= {"status": "ok", "http_status": 200, "final_url": item.url, "phash": item.key[:16]}
    row |= {"original_format": "jpeg", "original_width": width, "original_height": height}
    row |= {"format": "jpeg", "width": width, "height": height, "image": buffer.getvalue()}
    return row | {"sha256": item.key * 2, "original_bytes": buffer.tell()}


def disc(number: int, size: tuple[int, int]) -> Image.Image:
    """A disc on a plain ground, another one for each number."""
    image = Image.new("RGB", size, (230, 230 - number % 60, 215))
    colour = (number * 67 % 256, number * 131 % 256, number * 29 % 256)
    ImageDraw.Draw(image).ellipse((size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4), colour)
    return image


def made_items() -> list[Item]:
    """60 pairs: most are kept, two are duplicates, a few fall to the rule, a few were not fetched."""
    sizes = [(96, 96), (160, 96), (96, 160), (240, 96)]
    items = [
        Item(f"http://img.example/{i}.jpg", f"disc number {i}", disc(i, sizes[i % 4]), quality=3 + i % 7)
        for i in range(46)
    ]
    items += [
        Item(
            f"http://img.example/poor/{i}.jpg",
            f"poor {i}",
            disc(i, (80, 80)),
            reason="rule: quality < 9",
            quality=9.5,
        )
        for i in range(5)
    ]
    items += [
        Item(
            f"http://copy.example/{i}",
            f"copy {i}",
            disc(i, sizes[i % 4]),
            reason="duplicate",
            duplicate_of=items[i].key,
        )
        for i in range(2)
    ]
    failed = [("http_4xx", "HTTP status 404")] * 3 + [("dns", "no such host"), ("timeout", "30 s are over")]
    items += [
        Item(f"http://u:pw@gone.example/{i}", f"gone {i}", None, e, d) for i, (e, d) in enumerate(failed)
    ]
    return [
        *items,
        Item(
            "javascript:alert(1)",
            "<script>alert('caption')</script>",
            None,
            "blocked_scheme",
            "<b>javascript:</b>",
        ),
        Item('http://img.example/"onerror="x', "<script>alert(2)</script>", disc(99, (96, 96))),
    ]
