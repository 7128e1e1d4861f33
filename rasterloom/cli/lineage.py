"""The command ``versions lineage``."""

from typing import Annotated

import typer
from rich.text import Text

from rasterloom.cli.options import RecipePath, open_corpus, out
from rasterloom.errors import VersionError
from rasterloom.utils.redact import safe


def lineage_command(
    recipe: RecipePath,
    what: Annotated[
        str,
        typer.Argument(metavar="X", help="Step, snapshot or fingerprint; or key, URL or SHA-256."),
    ],
    onward: Annotated[bool, typer.Option("--onward", help="Show descendants instead of ancestors.")] = False,
) -> None:
    """Trace a result to its sources, or an image to checkpoints.

    A key, a URL or the SHA-256 of an image lists the versions of tokens
    that hold it, and the checkpoints that were trained on those.
    """
    from rasterloom.versions import lineage  # heavy

    corpus = open_corpus(recipe)
    nodes = lineage.graph(corpus)
    keys = lineage.keys_of(corpus, what)
    if keys:
        held = lineage.holding(corpus, nodes, keys)
        trained = lineage.checkpoints_of(corpus, nodes, keys)
        out.print(f"{len(keys)} pairs: {' '.join(keys[:8])}", highlight=False)
        for title, fingerprints in (
            ("tokens that hold them, or did", held),
            ("checkpoints that saw them", trained),
        ):
            out.print(f"{title}: {', '.join(nodes[f].name for f in fingerprints) or 'none'}", highlight=False)
        return
    try:
        start = lineage.find(nodes, what)
    except VersionError as error:
        raise VersionError(f"{error}; and no pair has it as key, URL or SHA-256") from None
    found = (lineage.descendants if onward else lineage.ancestors)(nodes, start)
    for node in found if onward else reversed(found):
        record = node.record
        counts = ", ".join(f"{k} {n:,}" for k, n in sorted(record.counts.items(), key=lambda i: -i[1])[:4])
        line = Text.assemble((safe(node.name), "bold"), f"  {record.finished}  {safe(counts)}")
        out.print(line, highlight=False)
        if record.inputs:
            given = (
                nodes[f].name if f in nodes else f"{step}, no longer on record"
                for step, f in record.inputs.items()
            )
            out.print(f"  made of {', '.join(given)}", highlight=False)
