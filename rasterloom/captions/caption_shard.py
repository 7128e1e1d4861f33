"""Captions of one shard: rows of ``schema.CAPTIONS`` for selected images."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rasterloom.captions.answers import Answer, Request, Unanswered, caption_in, captions_in
from rasterloom.captions.checks import check_captions
from rasterloom.captions.endpoint import EndpointClient
from rasterloom.captions.endpoint_pool import with_endpoint
from rasterloom.captions.local_model import load_local
from rasterloom.captions.prompt_values import identity_of, meta_of, request_of
from rasterloom.captions.spending import price_of
from rasterloom.errors import RunPaused
from rasterloom.recipe.captions import Captioner
from rasterloom.recipe.sandboxed_templates import fixed_text
from rasterloom.schema import CAPTIONS, ErrorClass
from rasterloom.sources.failure import FetchFailure
from rasterloom.sources.lists.field_path import found

Row = dict[str, Any]
CHECKS = ("refusal", "boilerplate", "echo", "names_model", "repetition", "words", "language")
TOKENS_PAID, MICRO_USD_PAID = "tokens", "usd_millionths"
"""Names of counts."""
UNFINISHED = (ErrorClass.BUDGET, ErrorClass.HOST_DOWN)
"""Classes of rows that nobody was asked for: a further run asks."""


@dataclass(frozen=True)
class Known:
    """Knowledge before a shard is begun."""

    rows: Mapping[tuple[str, str], Sequence[Row]] = field(default_factory=dict)
    """Rows of earlier answers, by key and digest of the request."""
    tokens: int = 0
    """Spent by finished shards."""
    usd: float = 0.0


def known_rows(tables: Sequence[pa.Table], again: Sequence[str] = ()) -> dict[tuple[str, str], list[Row]]:
    """Rows of earlier answers by key and request; later tables prevail.

    Args:
        again: classes of failures that are asked again.
    """
    result: dict[tuple[str, str], list[Row]] = {}
    for table in tables:
        of_table: dict[tuple[str, str], list[Row]] = {}
        for row in table.to_pylist():
            if row["error"] not in (*UNFINISHED, *again):
                of_table.setdefault((row["key"], row["request"]), []).append(row)
        result |= of_table
    return result


def caption_shard(
    images: pa.Table, captioner: Captioner, *, digest: str = "", known: Known = Known()
) -> tuple[pa.Table, dict[str, int]]:
    """Caption the images of a shard.

    Args:
        images: selected rows of ``schema.IMAGES``, with ``source`` and ``meta`` of their pairs.
        digest: of a local model's weights.

    Returns:
        Rows of ``schema.CAPTIONS`` by key, at least one for each image, and counts: of captions, of failures
        by class, and of the tokens and millionths of a dollar that were paid now.

    Raises:
        RunPaused: the budget is spent or the endpoint is down, and nothing was asked.
        ValueError: there is no key, or no model in the folder.
    """
    rows: list[Row] = []
    paid = (0, 0)
    identity = identity_of(captioner, digest)
    asked: list[tuple[Row, Request]] = []
    for number, image in enumerate(images.drop_columns("image").to_pylist()):
        meta = meta_of(image["meta"])
        begun = {"key": image["key"], "shard": image["shard"], "captioner": captioner.name}
        if captioner.field is not None:
            rows += _of_field(begun, captioner, {**meta, "caption": image["caption"]})
            continue
        try:
            request = request_of(captioner, identity, image, meta, images["image"][number].as_buffer())
        except ValueError as error:
            rows += _failed(begun, captioner, Unanswered(ErrorClass.NO_FIELD, f"prompt: {error}"))
            continue
        earlier = known.rows.get((request.key, request.digest))
        if earlier:
            rows += [{**row, "shard": image["shard"]} for row in earlier]
        else:
            asked.append((begun | {"request": request.digest}, request))
    answers = _ask(captioner, [request for _, request in asked], known)
    for (begun, _), answer in zip(asked, answers, strict=True):
        rows += _of_answer(begun, captioner, answer)
        if isinstance(answer, Answer):
            price = round(1e6 * price_of(captioner.endpoint, answer.tokens_in, answer.tokens_out))
            paid = paid[0] + answer.tokens_in + answer.tokens_out, paid[1] + price
    table = _table(rows, captioner)
    return table, _counts(table, *paid)


def _ask(captioner: Captioner, requests: list[Request], known: Known) -> Sequence[Answer | Unanswered]:
    if not requests:
        return []
    if captioner.local is not None:
        return load_local(captioner.local).ask(requests)

    async def ask_all(client: EndpointClient) -> list[Answer | Unanswered]:
        client.spending.begin_with(known.tokens, known.usd)
        if client.is_down:
            raise RunPaused(f"{client.config.url}: {client.why_down}")
        if not client.spending.has_room():
            raise RunPaused(
                f"its budget is spent ({client.spending.text()}): raise budget_usd or budget_tokens "
                "and run again"
            )
        return list(await asyncio.gather(*map(client.ask, requests)))

    return with_endpoint(captioner, ask_all)


def _of_field(begun: Row, captioner: Captioner, values: Mapping[str, Any]) -> list[Row]:
    """Rows of what a field holds: one, or each text of a list."""
    texts = [
        str(one).strip() for one in found(values, captioner.field or "") if isinstance(one, str | int | float)
    ]
    texts = [text for text in texts if text]
    if not texts:
        return _failed(begun, captioner, Unanswered(ErrorClass.NO_FIELD, f"no text in {captioner.field}"))
    rows = [{**begun, "name": captioner.name, "caption": text} for text in dict.fromkeys(texts)]
    return [{**row, "number": number, "attempts": 0} for number, row in enumerate(rows)]


def _of_answer(begun: Row, captioner: Captioner, answer: Answer | Unanswered) -> list[Row]:
    if isinstance(answer, Unanswered):
        return _failed(begun, captioner, answer)
    usd = price_of(captioner.endpoint, answer.tokens_in, answer.tokens_out)
    spent = {"tokens_in": answer.tokens_in, "tokens_out": answer.tokens_out, "usd": usd}
    try:
        texts = (
            captions_in(answer, captioner.answers)
            if captioner.answers
            else {captioner.name: caption_in(answer)}
        )
    except FetchFailure as failure:
        unanswered = Unanswered(failure.error, failure.detail, answer.attempts)
        first, *others = _failed(begun, captioner, unanswered)
        return [first | spent, *others]
    rows = [
        {**begun, "name": name, "number": 0, "caption": text, "attempts": answer.attempts}
        for name, text in texts.items()
    ]
    return [rows[0] | spent, *rows[1:]]


def _failed(begun: Row, captioner: Captioner, failure: Unanswered) -> list[Row]:
    why = {"error": str(failure.error), "detail": failure.detail, "attempts": failure.attempts, "number": 0}
    return [{**begun, **why, "name": name} for name in captioner.names]


def _table(rows: list[Row], captioner: Captioner) -> pa.Table:
    rows.sort(key=lambda row: (row["key"], captioner.names.index(row["name"]), row["number"]))
    prompt = "" if captioner.field is not None else fixed_text(captioner.prompt)
    model = captioner.endpoint.model if captioner.endpoint else ""
    checks = check_captions([row.get("caption") for row in rows], [prompt] * len(rows), model)
    columns = [
        pa.array(
            checks[name.name] if name.name in CHECKS else [row.get(name.name) for row in rows], name.type
        )
        for name in CAPTIONS
    ]
    return pa.Table.from_arrays(columns, schema=CAPTIONS)


def _counts(table: pa.Table, tokens: int, micro_usd: int) -> dict[str, int]:
    counts: dict[str, int] = {}
    for error in table["error"].to_pylist():
        counts[error or "ok"] = counts.get(error or "ok", 0) + 1
    return (
        counts
        | ({TOKENS_PAID: tokens} if tokens else {})
        | ({MICRO_USD_PAID: micro_usd} if micro_usd else {})
    )
