"""Export of CLIP embeddings in the layout of clip-retrieval."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rasterloom.errors import RecipeError
from rasterloom.pipelines.corpus import shard_work
from rasterloom.pipelines.corpus.steps import corpus_steps
from rasterloom.pipelines.workspace.status import output_files, status
from rasterloom.recipe.recipe import Recipe
from rasterloom.storage import parquet_io
from rasterloom.versions.corpus import Corpus

ROWS_A_FILE = 100_000


def export(recipe: Recipe, folder: Path, everything: bool = False, rows_a_file: int = ROWS_A_FILE) -> int:
    """Write a corpus's embeddings in clip-retrieval's layout. Returns their number.

    ``img_emb/img_emb_<n>.npy`` and, where the score `clip` kept those of captions,
    ``text_emb/text_emb_<n>.npy`` hold float16 [rows, d] of length 1; ``metadata/metadata_<n>.parquet`` has
    key, url, caption, size and the scores of the same rows. Images without an embedding are left out.

    Args:
        everything: also what the selection does not keep

    Raises:
        RecipeError: the steps are not done, no score keeps embeddings, or the folder holds something
    """
    corpus = Corpus.of(recipe)
    wanted = ("images", "scores") if everything else ("images", "scores", "selection")
    files: dict[str, list[str]] = {}
    for step in corpus_steps(recipe):
        if step.name in wanted:
            state = status(corpus, step)
            if not state.done:
                message = f"the step {step.name} is not done ({state.reason})"
                raise RecipeError(message, needs=wanted[-1])
            files[step.name] = [file.name for file in output_files(corpus, step)]
    if folder.exists() and any(folder.iterdir()):
        raise RecipeError(f"{folder} is not empty: name a new folder")
    columns = shard_work.score_fields(corpus.store, files["scores"])
    vectors = [field.name for field in columns if pa.types.is_list(field.type)]
    of_images = [name for name in vectors if not name.endswith("_text_embedding")]
    if not of_images:
        raise RecipeError("no score keeps embeddings; for example: score: [{clip: {keep_embeddings: true}}]")
    names = {"img_emb": of_images[0]}
    if "clip_text_embedding" in vectors:
        names["text_emb"] = "clip_text_embedding"
    writer = _Writer(folder, names, rows_a_file)
    scores = [field.name for field in columns if not pa.types.is_list(field.type)]
    for images in files["images"]:
        writer.add(_rows(corpus, files, images, list(names.values()), scores))
    writer.flush(0)
    return writer.written


def _rows(
    corpus: Corpus, files: dict[str, list[str]], images: str, vectors: list[str], scores: list[str]
) -> pa.Table:
    """Selected rows of one images file that have all embeddings."""
    store = corpus.store
    columns = ["key", "shard", "url", "caption", "width", "height"]
    table = parquet_io.read_files(store, [images], pc.field("status") == "ok", columns)
    here = pc.field("shard").isin(pc.unique(table["shard"]))
    if "selection" in files:
        kept = parquet_io.read_files(store, files["selection"], here & pc.field("kept"), ["key"])
        table = table.filter(pc.is_in(table["key"], kept["key"].combine_chunks()))
    for name in vectors:
        here &= pc.field(name).is_valid()
    found = parquet_io.read_files(store, files["scores"], here, ["key", *vectors, *scores])
    table = table.filter(pc.is_in(table["key"], found["key"].combine_chunks())).drop_columns(["shard"])
    found = found.take(pc.index_in(table["key"], found["key"].combine_chunks()))
    for name in [*vectors, *scores]:
        table = table.append_column(name, found[name])
    return table


class _Writer:
    """Writer of files with an equal number of rows."""

    def __init__(self, folder: Path, vectors: dict[str, str], rows_a_file: int) -> None:
        self.folder, self.vectors, self.rows_a_file = folder, vectors, rows_a_file
        self.waiting: list[pa.Table] = []
        self.files = self.written = 0
        for name in (*vectors, "metadata"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def add(self, rows: pa.Table) -> None:
        self.waiting.append(rows)
        if sum(map(len, self.waiting)) >= self.rows_a_file:
            self.flush(self.rows_a_file)

    def flush(self, at_least: int) -> None:
        rows = pa.concat_tables(self.waiting)
        while len(rows) and len(rows) >= at_least:
            self._write(rows.slice(0, self.rows_a_file))
            rows = rows.slice(self.rows_a_file)
        self.waiting = [rows]

    def _write(self, rows: pa.Table) -> None:
        number = f"{self.files:05d}"  # the readers go by the order of names
        for name, column in self.vectors.items():
            flat = rows[column].combine_chunks().flatten().to_numpy()
            np.save(
                self.folder / name / f"{name}_{number}.npy", flat.reshape(len(rows), -1).astype(np.float16)
            )
        metadata = rows.drop_columns(list(self.vectors.values()))
        pq.write_table(metadata, self.folder / "metadata" / f"metadata_{number}.parquet")
        self.files += 1
        self.written += len(rows)
