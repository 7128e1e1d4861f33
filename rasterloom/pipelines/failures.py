"""What did not make it into the corpus: every pair that is not kept, with its reason."""

from dataclasses import dataclass

import pyarrow.compute as pc

from rasterloom.pipelines import work
from rasterloom.pipelines.run import workflow
from rasterloom.pipelines.state import output_files, status
from rasterloom.recipe import Recipe
from rasterloom.versions.tables import Corpus


@dataclass(frozen=True)
class Failure:
    """A pair that was dropped: by fetching, by the keep rule or as a duplicate, or by tokenising."""

    key: str
    url: str | None
    caption: str | None
    reason: str
    detail: str


def failures(recipe: Recipe) -> list[Failure]:
    """List every pair that is not kept, as far as the steps have come."""
    corpus = Corpus.of(recipe)
    done = {s.name: output_files(corpus, s) for s in workflow(recipe) if status(corpus, s).done}
    if "images" not in done:
        return []
    store = corpus.store
    columns = ["key", "url", "caption", "status", "error", "detail"]
    images = work.read_files(store, [f.name for f in done["images"]], columns=columns).to_pylist()
    if "selection" not in done:
        return [
            _of(row, f"failed: {row['error']}", row["detail"]) for row in images if row["status"] == "failed"
        ]
    files = [f.name for f in done["selection"]]
    dropped = {row["key"]: row for row in work.read_files(store, files, ~pc.field("kept")).to_pylist()}
    by_key = {row["key"]: row for row in images}
    found = []
    for key, row in dropped.items():
        twin = by_key.get(row["duplicate_of"] or "")
        detail = f"of {twin['url']}" if twin else by_key[key]["detail"]
        found.append(_of(by_key[key], row["reason"], detail))
    for name, codes in done.items():
        if name.startswith("codes/") and codes:
            bad = work.read_files(
                store, [f.name for f in codes], pc.field("error").is_valid(), ["key", "error"]
            )
            found += [_of(by_key[r["key"]], f"failed: {name}", r["error"]) for r in bad.to_pylist()]
    return found


def _of(image: dict[str, str | None], reason: str, detail: str | None) -> Failure:
    return Failure(str(image["key"]), image["url"], image["caption"], reason, detail or "")
