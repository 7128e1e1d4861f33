"""Random streams: one function makes the stream of every draw that decides a result.

A stream is a digest of its draw's name and of the fields that the draw depends on, and of nothing else: two
draws that differ in any of these are independent, and the same fields give the same draw on any machine, at
any number of workers, and after a resume. `DRAWS` lists all draws; docs/training.md shows the list.
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

DIGEST_BYTES = 8
VERSION = 2
"""Noted in checkpoints: a stage cannot go on with other streams than it was begun with.

1, not noted: order, dropped prompts and dropout by seed and epoch alone.
"""


@dataclass(frozen=True)
class Draw:
    """Random draw of the system."""

    name: str
    person: bytes
    """Sets the draw's digests apart from those of all others."""
    fields: tuple[str, ...]
    """Fields that the stream depends on, in the order in which they enter the digest."""
    decides: str
    why: str


_EACH_TARGET = "independent of target and stage: the same image keeps its crop in every stage that reads it"

DRAWS = {
    draw.name: draw
    for draw in (
        Draw("captions", b"", ("key",), "captions of a text vocabulary, of more than a million", "no seed"),
        Draw("crop", b"rasterloom.crop", ("seed", "key"), "position of a crop", _EACH_TARGET),
        Draw(
            "size",
            b"rasterloom.size",
            ("seed", "key"),
            "whether a prompt names the size",
            "independent of the target: a row's prompt is worded alike in every stage",
        ),
        Draw(
            "pack",
            b"rasterloom.pack",
            ("seed", "key"),
            "order of rows in the token files",
            "a row that is added leaves the others in their order",
        ),
        Draw(
            "heldout",
            b"rasterloom.held",
            ("image",),
            "which images are held out",
            "no seed: one split for every target, stage and recipe",
        ),
        Draw("init", b"rasterloom.init", ("seed",), "weights of a new model", "made once, before stage 1"),
        Draw(
            "adapters",
            b"rasterloom.lora",
            ("seed", "stage"),
            "first matrices of LoRA's adapters",
            "adapters start anew in each stage, in other directions; under `optimizer_state: keep` they go "
            "on",
        ),
        Draw(
            "order",
            b"rasterloom.order",
            ("seed", "stage", "part", "pass"),
            "order of a part's rows",
            "a second stage on the same rows goes through them in another order",
        ),
        Draw(
            "mixture",
            b"rasterloom.mix",
            ("seed", "stage", "part", "epoch"),
            "places of a part's rows in an epoch",
            "parts are spread independently of each other",
        ),
        Draw(
            "weights",
            b"rasterloom.wght",
            ("seed", "stage", "part"),
            "which rows come again, of those with sampling weights",
            "drawn once for all passes, so that a row comes as often as its weight says",
        ),
        Draw(
            "prompt",
            b"rasterloom.drop",
            ("seed", "stage", "part", "pass", "key"),
            "whether a row loses its prompt",
            "each time a row comes it is drawn anew, so that none always or never has its prompt",
        ),
        Draw(
            "caption",
            b"rasterloom.capt",
            ("seed", "stage", "part", "pass", "key"),
            "which of its captions a row is trained on",
            "each time a row comes it is drawn anew, by `train.captions`",
        ),
        Draw(
            "dropout",
            b"rasterloom.noise",
            ("seed", "stage", "step", "rank"),
            "dropout of a worker",
            "drawn at a worker's start, then stored in checkpoints; `step` is where it starts without one",
        ),
        Draw(
            "sample",
            b"rasterloom.gen",
            ("seed", "number"),
            "tokens of a generated image or text",
            "an answer does not depend on the others or on the batch",
        ),
        Draw(
            "groups",
            b"rasterloom.group",
            ("seed", "epoch"),
            "order of row groups in `rasterloom.data`",
            "readers share out one order, and each reads its own files",
        ),
        Draw(
            "window",
            b"rasterloom.wind",
            ("seed", "epoch", "reader", "number"),
            "order of rows of some row groups in `rasterloom.data`",
            "a reader that goes on begins with the window that it was in",
        ),
    )
}


def stream_digest(name: str, **fields: int | str) -> bytes:
    """Return 8 bytes that depend on a draw and its fields alone.

    Args:
        name: of the draw, in `DRAWS`.
        fields: values of the draw's fields, in their order; ``pass`` is written ``pass_``.

    Raises:
        TypeError: the fields are not those of the draw.
    """
    draw = DRAWS[name]
    if _FIELDS[name] != tuple(fields):
        raise TypeError(f"the draw {name!r} depends on {_FIELDS[name]}, not on {tuple(fields)}")
    data = ":".join(map(str, fields.values())).encode("utf-8", "surrogatepass")
    return blake2b(data, digest_size=DIGEST_BYTES, person=draw.person).digest()


def stream_number(name: str, **fields: int | str) -> int:
    """Return a random number of 64 bits: a seed, of torch for example. Raises as `stream_digest`."""
    return int.from_bytes(stream_digest(name, **fields), "little")


def stream_share(name: str, **fields: int | str) -> float:
    """Return a random number in [0, 1). Raises as `stream_digest`."""
    return (stream_number(name, **fields) >> 11) / 2**53


def stream_generator(name: str, **fields: int | str) -> np.random.Generator:
    """Return a generator of random numbers. Raises as `stream_digest`."""
    return np.random.default_rng(stream_number(name, **fields))


_FIELDS = {
    name: tuple("pass_" if field == "pass" else field for field in draw.fields)
    for name, draw in DRAWS.items()
}
