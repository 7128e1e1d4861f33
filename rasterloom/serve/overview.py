"""Facts about a workspace: corpora, versions, steps, training runs, reports."""

from dataclasses import dataclass

import pyarrow.fs as pafs
from markupsafe import Markup

from rasterloom.errors import RasterloomError
from rasterloom.pipelines.training.result_folder import shown_folder
from rasterloom.pipelines.workflow import Planned, Workflow
from rasterloom.pipelines.workspace.tombstones import latest_takedown
from rasterloom.report import charts
from rasterloom.report.training_runs import Stage, read_stage
from rasterloom.schema import StepKind
from rasterloom.storage.layout import INDEX_HTML
from rasterloom.versions import lineage
from rasterloom.versions.corpus import Corpus
from rasterloom.versions.record import Record

RUNS = 24  # the latest stages that are shown


@dataclass(frozen=True)
class Run:
    """Trained stage, with its loss curve."""

    record: Record
    stage: Stage
    chart: Markup


def corpora(corpus: Corpus) -> list[str]:
    """Names of the workspace's corpora, as far as the catalog has them."""
    store = corpus.store
    selector = pafs.FileSelector(store.path(), allow_not_found=True)
    folders = {
        i.base_name for i in store.filesystem.get_file_info(selector) if i.type == pafs.FileType.Directory
    }
    return sorted(folders & {".".join(parts) for parts in corpus.catalog.list_namespaces()})


def steps(workflow: Workflow) -> tuple[list[Planned], str]:
    """Steps of the recipe with their states, or an error."""
    workflow.refresh()
    try:
        return workflow.plan(), ""
    except RasterloomError as error:  # such as a list that is not on this machine
        return [], str(error)


def runs(corpus: Corpus) -> list[Run]:
    """Stages that were trained, the latest first."""
    records = _records(corpus, StepKind.TRAIN)[:RUNS]
    read = (
        (r, read_stage(StepKind.part(r.step), shown_folder(corpus, r.step, r.fingerprint))) for r in records
    )
    return [Run(record, stage, charts.loss_curve(stage)) for record, stage in read if stage]


def reports(corpus: Corpus) -> list[Record]:
    """Reports that show nothing taken down since, the latest first."""
    number = latest_takedown(corpus.store, corpus.name)
    return [record for record in _records(corpus, StepKind.REPORT) if record.takedowns >= number]


def report(corpus: Corpus, fingerprint: str) -> bytes | None:
    """Page of a report, if it is one of `reports`."""
    if not any(record.fingerprint == fingerprint for record in reports(corpus)):
        return None
    try:
        return corpus.store.read(f"{corpus.layout.files(StepKind.REPORT, fingerprint)}/{INDEX_HTML}")
    except FileNotFoundError:
        return None


def _records(corpus: Corpus, kind: StepKind) -> list[Record]:
    found = (node.record for node in lineage.graph(corpus).values())
    return [record for record in found if record.kind is kind][::-1]
