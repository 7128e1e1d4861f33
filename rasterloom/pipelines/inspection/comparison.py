"""Operands of a comparison: a recipe's results, a version, or a training run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rasterloom.errors import RecipeError, VersionError
from rasterloom.pipelines.inspection.version_diff import rows_differing
from rasterloom.pipelines.maintenance.takedown import refuse_held
from rasterloom.pipelines.training.result_folder import shown_folder
from rasterloom.pipelines.workflow import Workflow
from rasterloom.recipe.loader import load_recipe
from rasterloom.recipe.recipe import Recipe
from rasterloom.report.comparison_page import Operand, write_comparison
from rasterloom.schema import StepKind
from rasterloom.versions import lineage
from rasterloom.versions.corpus import TABLES, Corpus
from rasterloom.versions.history import made
from rasterloom.versions.lineage import Graph, Node
from rasterloom.versions.record import Record
from rasterloom.versions.refs import check_ref, refs

SHOWN = (StepKind.TRAIN, StepKind.SAMPLE)  # steps whose folders are shown

Begin = Callable[[str], None]


def compare_with(
    recipe: Recipe, other: str, page: Path, begin: Begin = lambda part: None, file: Path | None = None
) -> None:
    """Write a page that compares a recipe's results with others. Nothing is run.

    Args:
        other: the file of another recipe; a tag, a branch or a snapshot; or the fingerprint of a stage that
            was trained, or its first digits.
        begin: called with what is done next.
        file: of the recipe, for the title where another recipe is compared with it.

    Raises:
        RecipeError: the other recipe is wrong, or neither has made anything yet.
        VersionError: ``other`` is none of these, or a version holds what was taken down since.
    """
    begin("reading the records")
    if other.endswith((".yaml", ".yml")):
        baseline, candidate = _operands_of_recipes((load_recipe(Path(other)), Path(other)), (recipe, file))
    else:
        baseline, candidate = _operand_of(recipe, other), operand_of_recipe(recipe)
    for operand in (baseline, candidate):
        if not operand.records:
            raise RecipeError(f"{operand.name} has no results yet", hint="run its recipe first")
    both = baseline.snapshots and candidate.snapshots
    found = rows_differing(baseline.corpus, candidate.corpus, begin) if both else []
    begin("the page")
    write_comparison(baseline, candidate, found, page)


def operand_of_recipe(recipe: Recipe, name: str = "") -> Operand:
    """Present results of a recipe's steps."""
    workflow = Workflow(recipe)
    corpus = workflow.corpus
    check_ref(corpus)
    refuse_held(corpus)
    done = [s for s in map(workflow.status, workflow.steps) if s.done and s.record]
    records = tuple(s.record for s in done if s.record and s.step.kind is not StepKind.REPORT)
    return Operand(
        name or f"{corpus.name}@{corpus.ref}", corpus, _snapshots(corpus), records, *_folders(corpus, records)
    )


def _operands_of_recipes(*both: tuple[Recipe, Path | None]) -> list[Operand]:
    """Results of two recipes, named after their files.

    Folders are in the names where the files' own are the same.
    """
    files = [file for _, file in both if file]
    alike = len({file.name for file in files}) < len(files)
    return [
        operand_of_recipe(recipe, f"{recipe.corpus} of {file if alike else file.name}" if file else "")
        for recipe, file in both
    ]


def _operand_of(recipe: Recipe, other: str) -> Operand:
    corpus = Corpus.of(recipe)
    nodes = lineage.graph(corpus)
    is_snapshot = other.isdecimal() and any(node.snapshot_id == int(other) for node in nodes.values())
    if is_snapshot or any(ref.name == other for ref in refs(corpus)):
        return operand_of_version(replace(corpus, ref=other), nodes)
    try:
        run = lineage.find(nodes, other)
    except VersionError:
        names = ", ".join(ref.name for ref in refs(corpus)) or "none yet"
        runs = ", ".join(node.name for node in nodes.values() if _trains(node)) or "none yet"
        message = (
            f"not a recipe (a .yaml file), a branch or tag (there are: {names}), or the fingerprint of a "
            f"trained stage (after the @ of: {runs})"
        )
        raise VersionError(message, field="compare", value=other) from None
    if not _trains(run):
        raise VersionError(f"{run.name} is not a trained stage", field="compare", value=other)
    return operand_of_run(corpus, nodes, run)


def operand_of_version(corpus: Corpus, nodes: Graph) -> Operand:
    """Version of a corpus, with the last training run on it."""
    check_ref(corpus)
    refuse_held(corpus)
    there = [version.record for version in made(corpus)]
    tokens = {record.fingerprint for record in there if record.kind is StepKind.TOKENS}
    trained = [
        node
        for node in nodes.values()
        if _trains(node) and any(n.record.fingerprint in tokens for n in lineage.ancestors(nodes, node))
    ]
    run = _run_of(nodes, trained[-1]) if trained else ()
    made_of = {record.fingerprint: record for record in there}
    for record in (*there, *run):
        if record.fingerprint in nodes:  # not where its snapshot is gone
            before = lineage.ancestors(nodes, nodes[record.fingerprint])
            made_of |= {n.record.fingerprint: n.record for n in before}
    of_data = (r for r in made_of.values() if r.kind not in (*SHOWN, StepKind.REPORT))
    return Operand(
        f"{corpus.name}@{corpus.ref}", corpus, _snapshots(corpus), (*of_data, *run), *_folders(corpus, run)
    )


def operand_of_run(corpus: Corpus, nodes: Graph, last: Node) -> Operand:
    """Training run up to a stage, with its earlier steps."""
    run = _run_of(nodes, last)
    before = [n.record for n in lineage.ancestors(nodes, last) if not _trains(n)]
    name = f"{last.record.step} {last.record.fingerprint[:10]}"
    return Operand(name, corpus, {}, (*before, *run), *_folders(corpus, run))


def _trains(node: Node) -> bool:
    return node.record.kind is StepKind.TRAIN


def _run_of(nodes: Graph, last: Node) -> tuple[Record, ...]:
    """Stages up to the last one, in order, and its samples."""
    stages = [n.record for n in lineage.ancestors(nodes, last) if _trains(n)]
    drawn = [n.record for n in nodes.values() if n.record.kind is StepKind.SAMPLE]
    mine = [record for record in drawn if last.record.fingerprint in record.inputs.values()]
    return (*stages, *mine[-1:])


def _folders(corpus: Corpus, records: tuple[Record, ...]) -> tuple[tuple[tuple[str, Path], ...], Path | None]:
    """Folders of the stages, by name, and of the samples."""
    folders = {r.step: shown_folder(corpus, r.step, r.fingerprint) for r in records if r.kind in SHOWN}
    stages = tuple((StepKind.part(n), f) for n, f in folders.items() if StepKind.part(n))
    return stages, folders.get(StepKind.SAMPLE)


def _snapshots(corpus: Corpus) -> dict[str, int]:
    found = {table: corpus.snapshot_id(table) for table in TABLES}
    return {table: snapshot for table, snapshot in found.items() if snapshot is not None}
