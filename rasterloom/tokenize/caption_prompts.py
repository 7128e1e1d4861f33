"""Token ids of further captions, in place of a sequence's prompt.

Of a plain pair only: what comes before the answer is the prompt. A sequence with another caption is that
caption's ids, then the sequence from its first answer on.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rasterloom.recipe.captions import ALT
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.schema import PROMPTS, T2I, Profile
from rasterloom.tokenize.conversation import encode_prompt
from rasterloom.tokenize.limits import length_fault, names_size
from rasterloom.tokenize.prompt_templates import ANY_SIZE, Template, templates_of
from rasterloom.tokenize.sample_rows import TokenizeSample, turns_of
from rasterloom.tokenize.text_tokenizer import TextEncoder

Captions = Mapping[str, Sequence[tuple[str, str]]]
"""Of each key, names and captions in order."""


def prompt_rows(
    rows: pa.Table, captions: Captions, text: TextEncoder, profile: Profile, config: Tokenize
) -> tuple[pa.Table, dict[str, int]]:
    """Return rows of ``schema.PROMPTS``, and counts by name.

    Args:
        rows: sequences, with ``key``, ``bucket``, ``order``, ``width``, ``height``, ``task``, ``caption``,
            ``n_tokens`` and ``loss_spans``; those with captions have a row.
    """
    templates = templates_of(config.prompts)
    found: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for row in rows.to_pylist():
        if row["task"] != T2I or row["key"] not in captions:
            continue
        answer = row["n_tokens"] - row["loss_spans"][0]
        has_own = bool(row["caption"].strip())
        of_row: list[dict[str, Any]] = [{"name": ALT, "ids": []}] if has_own else []
        lengths = [row["n_tokens"]] if has_own else []
        for name, caption in captions[row["key"]]:
            try:
                ids = _prompt_ids(row, caption, templates, text, profile, config)
            except ValueError:
                counts[f"{name}: no text of the vocabulary"] += 1
                continue
            if length_fault(len(ids) + answer, config):
                counts[f"{name}: too long"] += 1
                continue
            of_row.append({"name": name, "ids": ids})
            lengths.append(len(ids) + answer)
            counts[name] += 1
        if any(one["ids"] for one in of_row):
            kept = {name: row[name] for name in ("key", "bucket", "order")}
            found.append({**kept, "captions": of_row, "longest": max(lengths)})
    return pa.Table.from_pylist(found, PROMPTS), dict(counts)


def _prompt_ids(
    row: Mapping[str, Any],
    caption: str,
    templates: Mapping[str, Template],
    text: TextEncoder,
    profile: Profile,
    config: Tokenize,
) -> list[int]:
    """Ids before the answer, worded as the row's own prompt."""
    sample = TokenizeSample(row["key"], caption, T2I, {}, (b"",))
    template = "" if names_size(row["key"], config) else ANY_SIZE
    turns = turns_of(sample, [(row["width"], row["height"])], templates, template)
    ids: list[int] = encode_prompt(turns[:1], [], text.encode, profile).tolist()
    return ids


def with_prompts(rows: pa.Table, prompts: pa.Table) -> pa.Table:
    """Sequences with the columns ``captions`` and ``longest``.

    Those without a caption of any kind are left out. One whose source has no caption takes its first further
    one for its prompt.
    """
    at = pc.index_in(rows["key"].combine_chunks(), prompts["key"].combine_chunks())
    captions = prompts["captions"].combine_chunks().take(at)
    longest = pc.coalesce(prompts["longest"].combine_chunks().take(at), rows["n_tokens"].combine_chunks())
    rows = rows.append_column(PROMPTS.field("captions"), captions).append_column(
        PROMPTS.field("longest"), longest
    )
    bare = pc.equal(pc.utf8_trim_whitespace(pc.coalesce(rows["caption"], "")), "")
    bare = pc.and_(bare, pc.equal(rows["task"], T2I))
    if not pc.any(bare).as_py():
        return rows
    named = rows.filter(pc.or_(pc.invert(bare), pc.is_valid(rows["captions"])))
    return pa.Table.from_pylist([_with_first(row) for row in named.to_pylist()], schema=rows.schema)


def _with_first(row: dict[str, Any]) -> dict[str, Any]:
    if row["caption"].strip() or row["task"] != T2I:
        return row
    first, *others = row["captions"]
    begins = row["loss_spans"][0]
    ids = [*first["ids"], *row["input_ids"][begins:]]
    moved = len(first["ids"]) - begins
    return row | {
        "input_ids": ids,
        "n_tokens": len(ids),
        "loss_spans": [place + moved for place in row["loss_spans"]],
        "captions": [{"name": first["name"], "ids": []}, *others],
    }
