"""Push of a version to the Hugging Face hub, in one commit."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the HTTP library of its version
    RevisionNotFoundError,
)

from rasterloom.errors import RecipeError, StepFailed, one_line
from rasterloom.pipelines.import_export.export_dataset import export
from rasterloom.utils.json_files import read_json
from rasterloom.utils.parallel import Advance, silent
from rasterloom.utils.private_folders import private_path
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.history import made
from rasterloom.versions.refs import refs

HUB = "hf://"
RECORDS = "export.json"  # in an export: the snapshot of each table that it was made from; written last
LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class Pushed:
    """A version on the hub."""

    url: str
    tag: str  # empty: the version has none
    new: bool  # False: it was there before


def push(
    corpus: Corpus,
    place: str,
    *,
    folder: Path | None = None,
    public: bool = False,
    advance: Advance = silent,
    uploads: Callable[[], None] = lambda: None,
) -> Pushed:
    """Export the selected images of a version and upload them.

    One commit replaces the data of the commit before, so that a reader sees one version or the other. A
    version that has a tag gets the same tag on the hub. What was exported or uploaded before, by a push that
    did not reach its end, is not exported or uploaded again.

    Args:
        corpus: seen at the version that is wanted.
        place: ``hf://owner/name``; the data set is created if it is not there. ``HF_ENDPOINT`` names
            another hub.
        folder: for the export, which stays there; None: a private temporary folder, removed at the end.
        public: the new data set is to be public. One that is there stays as it is.
        advance: called with the rows exported so far.
        uploads: called before the upload begins.

    Raises:
        RecipeError: the place is none, the hub refuses it, or its tag of this name is another version.
        StepFailed: the hub cannot be reached or fails.
    """
    name = _name_of(place)
    snapshots = {version.table: version.snapshot_id for version in made(corpus)}
    if not corpus.files("selection"):
        raise RecipeError(f"{corpus.name}@{corpus.ref} has no selection", needs="selection")
    tag = next((ref.name for ref in refs(corpus) if ref.kind == "tag" and ref.name == corpus.ref), "")
    api = HfApi()
    try:
        url = str(api.create_repo(name, repo_type="dataset", private=not public, exist_ok=True))
        if _snapshots_at(api, name, tag or "main") == snapshots:
            return Pushed(url, tag, new=False)
        if tag and any(one.name == tag for one in api.list_repo_refs(name, repo_type="dataset").tags):
            raise RecipeError(
                f"{place} has another version as {tag}, and a tag names one version: give this one another "
                "tag, or delete that one on the hub"
            )
        exported = folder or private_path("push", f"{corpus.name}-{snapshots['selection']}")
        if _snapshots_in(exported) != snapshots:
            if folder is None:
                shutil.rmtree(exported, ignore_errors=True)
            export(corpus, exported, advance=advance)
        uploads()
        _upload(api, name, exported, f"{corpus.name}@{corpus.ref}", tag)
    except HFValidationError as error:
        raise RecipeError(f"{place}: {one_line(error)}") from None
    except HfHubHTTPError as error:
        raise _refused(error, place) from None
    except (HTTPError, OSError) as error:
        raise StepFailed(f"{place}: {one_line(error)}") from None
    if folder is None:
        shutil.rmtree(exported)
    return Pushed(url, tag, new=True)


def _upload(api: HfApi, name: str, folder: Path, message: str, tag: str) -> None:
    commit = api.upload_folder(
        repo_id=name,
        repo_type="dataset",
        folder_path=folder,
        commit_message=message,
        delete_patterns="data/*",  # of the version before
    )
    if tag:
        api.create_tag(name, repo_type="dataset", tag=tag, revision=commit.oid)


def _name_of(place: str) -> str:
    name = place.removeprefix(HUB).removeprefix("datasets/")
    if not place.startswith(HUB) or name.count("/") != 1:
        raise RecipeError(f"{place} is no data set of the hub, which is named hf://OWNER/NAME")
    return name


def _refused(error: HfHubHTTPError, place: str) -> Exception:
    status = error.response.status_code if error.response is not None else 0
    if status in (401, 403):
        return RecipeError(f"{place}: the hub does not let you write there: {LOGIN}")
    return StepFailed(f"{place}: the hub answers {status}: {one_line(error)}")


def _snapshots_at(api: HfApi, name: str, revision: str) -> dict[str, int]:
    """Return the snapshots that a revision was made from; empty without them."""
    try:
        path = api.hf_hub_download(name, RECORDS, repo_type="dataset", revision=revision)
    except (EntryNotFoundError, RevisionNotFoundError):
        return {}
    return _snapshots_of(Path(path))


def _snapshots_in(folder: Path) -> dict[str, int]:
    return _snapshots_of(folder / RECORDS) if os.path.lexists(folder / RECORDS) else {}


def _snapshots_of(file: Path) -> dict[str, int]:
    try:
        found: dict[str, Any] = read_json(file)
        return {table: int(record["snapshot"]) for table, record in found.items()}
    except (json.JSONDecodeError, AttributeError, LookupError, TypeError, ValueError):
        return {}
