"""Preview of the rows and files of a source, before anything runs."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from rasterloom.recipe.sources import Source
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.pairs import check_pair, first_pairs, uncaptioned_sources
from rasterloom.sources.readers.registry import kind_of, source_name, survey_source
from rasterloom.utils.redact import cut

EXAMPLES = 3
ROWS = 10_000  # of a source, that are read to count them
REMOTE_ROWS = 100  # of one that does not lie on a disk, where a row may be a request
SHOWN = 80  # characters of a URL or a caption


@dataclass(frozen=True)
class Preview:
    """Rows and files of one source, in words."""

    name: str
    kind: str
    rows: str
    files: list[str]  # a line for those that are read, and one for each reason why others are not
    examples: list[str]
    caption: str  # of the first example that has one
    more: bool = False  # than were counted

    def lines(self) -> Iterator[str]:
        """Yield the source in lines."""
        read, *others = self.files or [""]
        yield f"source {self.name} ({self.kind}): {self.rows}" + (f"; {read}" if read else "")
        yield from (f"  {line}" for line in (*others, *self.examples))


def preview(source: Source) -> Preview:
    """Read the beginning of a source.

    Raises:
        SourceError: it cannot be read.
    """
    most = REMOTE_ROWS if "://" in source.paths[0] else ROWS
    pairs, count = first_pairs(source, EXAMPLES, most)
    survey = survey_source(source)
    rows = f"more than {most:,} rows" if count is None else f"{count:,} row{'s' if count != 1 else ''}"
    files = survey.lines() if survey else []
    uncaptioned = uncaptioned_sources([source])
    examples = [_example(pair, uncaptioned) for pair in pairs]
    captions = (pair["caption"] for pair in pairs if pair["turns"] is None and pair["caption"])
    return Preview(
        source_name(source), kind_of(source), rows, files, examples, next(captions, ""), count is None
    )


def _example(pair: dict[str, Any], uncaptioned: Collection[str]) -> str:
    place = cut(pair["path"] or pair["url"] or "no image", SHOWN)
    try:
        check_pair(pair, uncaptioned)
    except FetchFailure as failure:
        return f"{place}: {failure.error}: {cut(failure.detail, SHOWN)}"
    task = "" if pair["turns"] is None else f"{pair['task']}: "
    return f"{place}: {task}{cut(pair['caption'] or 'no caption', SHOWN)}"
