"""The commands ``failures``, ``explain``, ``keep`` and ``caption``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rasterloom.cli.options import (
    AsFormat,
    OutputFormat,
    RecipePath,
    load_recipe,
    out,
    print_json,
)
from rasterloom.utils.redact import safe


class GroupBy(StrEnum):
    REASON = "reason"
    HOST = "host"


def failures_command(
    recipe: RecipePath,
    reason: Annotated[str | None, typer.Option(help="List the pairs of one reason or class.")] = None,
    host: Annotated[str | None, typer.Option(help="List the pairs of one host.")] = None,
    by: Annotated[GroupBy, typer.Option(help="Sum up by reason or by host.")] = GroupBy.REASON,
    limit: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 20,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """List the pairs that did not enter the corpus: by reason, by host, or one by one."""
    from rasterloom.pipelines.inspection.failures import failures, nothing_of, summary  # heavy

    loaded = load_recipe(recipe)
    if output is OutputFormat.JSON:
        every = failures(loaded, reason, host)
        for f in every:
            print_json(f.__dict__)
        if not every and reason:
            nothing_of(loaded, reason, host)
        return
    if reason is None and host is None:
        groups = summary(loaded, by)
        other = "most from" if by is GroupBy.REASON else "mostly"
        table = Table(by.value, "pairs", other, "for example", box=None, pad_edge=False)
        for g in groups[:limit]:
            example = f"{safe(g.place or '(no URL)')}  {safe(g.detail)}"
            table.add_row(safe(g.name or "(none)"), f"{g.pairs:,}", safe(g.mostly), example)
        out.print(table)
        if len(groups) > limit:
            out.print(f"{limit} of {len(groups):,}; --limit shows more.")
        out.print("--reason and --host list the pairs." if groups else "Nothing failed.", highlight=False)
        return
    found = failures(loaded, reason, host, limit + 1)
    if not found:
        out.print(nothing_of(loaded, reason, host), highlight=False)
        return
    for f in found[:limit]:
        columns = (f.key, f.reason, f.url or f.path or "(no URL)", f.detail)
        out.print("  ".join(map(safe, columns)), highlight=False)
    more = "; there are more, --limit shows them" if len(found) > limit else ""
    shown = min(limit, len(found))
    out.print(f"{shown} pair{'' if shown == 1 else 's'}{more}.")


def explain_command(
    recipe: RecipePath,
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="Key of the pair, its first digits, its URL or its path.")
    ],
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Explain one image: its source, scores, keep rule, duplicates and tokens."""
    from rasterloom.pipelines.inspection.explain import explain  # heavy

    chapters = explain(load_recipe(recipe), key)
    if output is OutputFormat.JSON:
        print_json({c.title: dict(c.lines) for c in chapters})
        return
    for chapter in chapters:
        out.print(chapter.title, style="bold")
        for name, value in chapter.lines:
            out.print(f"  {safe(name)}: {safe(value)}", highlight=False)


def keep_command(
    recipe: RecipePath,
    rule: Annotated[str, typer.Option("--try", metavar="RULE", help="Keep rule to try.")],
    page: Annotated[Path, typer.Option("--out", help="File for a gallery of the changes.")] = Path(
        "keep-try.html"
    ),
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Show the effect of another keep rule. Nothing is run, and no version is made."""
    from rasterloom.pipelines.inspection.rule_trial import try_rule  # heavy

    tried = try_rule(load_recipe(recipe), rule, page)
    if output is OutputFormat.JSON:
        changes = [change.__dict__ for change in tried.changes]
        print_json({**tried.trial.__dict__, "changes": changes, "reasons": tried.reasons})
        return
    table = Table("reason", "current", "with this rule", "", box=None, pad_edge=False)
    for name, (before, after) in sorted(tried.reasons.items(), key=lambda item: -max(item[1])):
        more = f"{after - before:+,}" if after != before else ""
        table.add_row(safe(name), f"{before:,}", f"{after:,}", more)
    out.print(table, highlight=False)
    trial = tried.trial
    kept = f"Kept: {trial.kept_before:,} by the current rule, {trial.kept_after:,} with this one"
    changed = f"{trial.newly_kept:,} newly kept, {trial.newly_dropped:,} newly dropped"
    out.print(f"{kept}: {changed}.", highlight=False)
    for change in tried.changes:
        word = "newly kept, was" if change.kept else "newly dropped,"
        out.print(f"  {change.rows:,} {word} {safe(change.reason)}", highlight=False)
    out.print(f"gallery: {page}", highlight=False)


def caption_command(
    recipe: RecipePath,
    images: Annotated[
        int, typer.Option("--try", metavar="N", min=1, help="Selected images to try the captioners on.")
    ] = 20,
    by: Annotated[
        list[str] | None, typer.Option("--by", metavar="NAME", help="Captioner to try. Default: all.")
    ] = None,
    page: Annotated[Path, typer.Option("--out", help="File for the images with their captions.")] = Path(
        "caption-try.html"
    ),
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Try captioners on some images, and estimate the cost of the whole. No version is made."""
    from rasterloom.pipelines.inspection.caption_trial import try_captioners  # heavy

    tried = try_captioners(load_recipe(recipe), images, by or (), page)
    if output is OutputFormat.JSON:
        captions = {key: [one.__dict__ for one in found] for key, found in tried.captions.items()}
        estimates = [estimate.__dict__ for estimate in tried.estimates]
        print_json({"captions": captions, "estimates": estimates, "page": str(page)})
        return
    table = Table(
        "captioner",
        "tried",
        "failed",
        "images in all",
        "tokens in",
        "tokens out",
        "USD",
        box=None,
        pad_edge=False,
    )
    for e in tried.estimates:
        numbers = (e.tried, e.failed, e.images, e.tokens_in, e.tokens_out)
        table.add_row(safe(e.captioner), *(f"{number:,}" for number in numbers), f"{e.usd:,.2f}")
    out.print(table, highlight=False)
    spent = sum(e.tried_tokens for e in tried.estimates), sum(e.tried_usd for e in tried.estimates)
    out.print(f"This trial took {spent[0]:,} tokens, {spent[1]:.4f} USD.", highlight=False)
    out.print(f"page: {page}", highlight=False)
