"""Requests of a captioner for the rows of a shard."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from yarl import URL

from rasterloom.captions.answers import Buffer, Request
from rasterloom.recipe.captions import Captioner
from rasterloom.recipe.sandboxed_templates import render

ALT_CHARACTERS = 2000  # of a caption as found: strangers write captions of any length


def request_of(
    captioner: Captioner, identity: str, image: Mapping[str, Any], meta: Mapping[str, Any], data: Buffer
) -> Request:
    """Return the request about an image.

    Args:
        identity: of the captioner: whatever else decides its answers.
        image: row of ``schema.IMAGES``, with ``source``.
        meta: the source's other columns.
        data: the image as stored.

    Raises:
        ValueError: the prompt asks for what the row does not have.
    """
    prompt = render(captioner.prompt, _values(image, meta))
    digest = hashlib.blake2b(digest_size=16)
    for part in (identity, prompt, image["sha256"] or ""):
        digest.update(len(part).to_bytes(8, "little") + part.encode("utf-8", "surrogatepass"))
    return Request(
        key=image["key"],
        image=data,
        format=image["format"],
        width=image["width"],
        height=image["height"],
        prompt=prompt,
        digest=digest.hexdigest(),
    )


def _values(image: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "alt": (image["caption"] or "")[:ALT_CHARACTERS],
        "url": image["url"] or "",
        "host": _host_of(image["url"]),
        "source": image.get("source") or "",
        "width": image["width"],
        "height": image["height"],
        "meta": meta,
    }


def _host_of(url: str | None) -> str:
    try:
        return URL(url or "").host or ""
    except ValueError:
        return ""


def meta_of(text: str | None) -> dict[str, Any]:
    """The source's other columns, of the column ``meta`` of ``pairs``."""
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def identity_of(captioner: Captioner, digest: str = "") -> str:
    """Text that names what decides a captioner's answers, beside prompt and image."""
    return json.dumps([captioner.model_dump(mode="json", exclude={"prompt"}), digest], sort_keys=True)
