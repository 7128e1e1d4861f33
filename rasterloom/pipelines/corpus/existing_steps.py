"""Steps of a version of a corpus, read off its records.

A recipe of ``corpus: name@tag`` reads that version, whatever else it says of sources, scores or rules: the
steps of its corpus are those that made the version.
"""

from rasterloom.errors import RecipeError, VersionError
from rasterloom.pipelines.corpus import token_work
from rasterloom.pipelines.corpus.length_index import lengths_step
from rasterloom.pipelines.corpus.pair_weights import is_weighted
from rasterloom.pipelines.step import FinishedStep, HasResult
from rasterloom.pipelines.workspace.status import read_record
from rasterloom.recipe.recipe import Recipe
from rasterloom.schema import StepKind
from rasterloom.versions.corpus import MAIN, TABLES, Corpus
from rasterloom.versions.history import made
from rasterloom.versions.record import Record
from rasterloom.versions.refs import check_ref, refs


def is_fixed(corpus: Corpus) -> bool:
    """True if a corpus is seen at a tag or a snapshot.

    Raises:
        VersionError: it has versions, and not this one: a run would begin a branch by a misspelt name.
    """
    if corpus.ref == MAIN:
        return False
    known = refs(corpus)
    if corpus.ref.isdecimal() or known:
        try:
            check_ref(corpus)
        except VersionError as error:
            if not corpus.ref.isdecimal():
                begin = f"rasterloom versions branch RECIPE {corpus.ref}"
                error.hint = f"to begin a branch of this name, with corpus: {corpus.name}: {begin}"
            raise
    return corpus.ref.isdecimal() or any(ref.name == corpus.ref and ref.kind == "tag" for ref in known)


def refuse_change(corpus: Corpus, what: str) -> None:
    """Raise VersionError: a version is to be changed."""
    raise VersionError(
        f"{what} would change {corpus.name}@{corpus.ref}, and versions do not change; to go on from it: "
        f"rasterloom versions branch RECIPE NAME --at {corpus.ref}, and corpus: {corpus.name}@NAME"
    )


def steps_of_version(recipe: Recipe) -> list[HasResult]:
    """Steps that made the recipe's version, if their results exist.

    Raises:
        RecipeError: the version lacks tokens of a target that a stage is to be trained on.
    """
    corpus = Corpus.of(recipe)
    versions = {v.record.step: v for v in made(corpus)}
    steps: list[HasResult] = [
        FinishedStep(versions[name].record, name)
        for name in TABLES
        if name in versions and name != StepKind.TOKENS
    ]
    steps += [
        FinishedStep(version.record, "captions", f"captioner == '{version.record.part}'")
        for version in versions.values()
        if version.table == StepKind.CAPTIONS
    ]
    steps += [
        FinishedStep(version.record, "captions", f"captioner == '{version.record.part}'")
        for version in versions.values()
        if version.table == StepKind.CAPTIONS
    ]
    texts: dict[str, HasResult] = {}
    tokens: list[HasResult] = []
    weighted = is_weighted(corpus)
    for version in versions.values():
        if version.table != StepKind.TOKENS or "profile" in version.record.config:  # the latter were imported
            continue
        target = int(version.record.part)
        config = _tokenized(recipe, target, version.record)
        codes = StepKind.CODES.step(target)
        of_codes = read_record(corpus, codes, version.record.inputs[codes])
        packed = FinishedStep(version.record, "tokens", f"target == {target}", config=config)
        if of_codes is not None:
            text = read_record(corpus, "text", of_codes.inputs["text"])
            if text is not None and text.fingerprint not in texts:
                texts[text.fingerprint] = FinishedStep(text, has_files=True)
            tokens.append(FinishedStep(of_codes, config=config))
        tokens += [packed, lengths_step(target, packed, weighted)]
    if len(texts) > 1:
        raise RecipeError(f"the tokens of {recipe.corpus} were made with {len(texts)} text vocabularies")
    for stage in recipe.train.stages if recipe.train else ():
        if StepKind.TOKENS.step(stage.target) not in versions:
            there = ", ".join(name for name in versions if StepKind.part(name)) or "no tokens"
            raise RecipeError(
                f"{recipe.corpus} has no tokens of {stage.target}, which train.stages names; it has {there}"
            )
    return [*steps, *texts.values(), *tokens]


def _tokenized(recipe: Recipe, target: int, record: Record) -> token_work.TokenizeAt:
    """Config that tokens were made by. The recipe adds the paths of weights and tokenizer."""
    settings = {n: v for n, v in record.config["tokenize"].items() if n not in ("prompts", "targets")}
    config = recipe.tokenize.model_copy(update={**settings, "targets": (target,)})
    return token_work.TokenizeAt(target=target, tokenize=config)
