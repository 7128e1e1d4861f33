"""The tables of a corpus, and the key that joins them.

Every per-image table carries ``shard``, the number of the row range of ``pairs`` that an image came
from, so that joining two tables for one shard reads one row group of each and not the whole table.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import pyarrow as pa

KEY_HEX_DIGITS = 32

T = TypeVar("T")

# A row of the tables is a *sample*. Most are plain pairs: an image, a caption, the task "t2i". Others have
# any number of images, and ``turns``: a JSON list of {"from": "human" or "gpt", "value": text} that is
# kept word for word, or a JSON object of the fields that the task's prompt is filled with. The image in
# the columns of a pair (``url``, ``image``, ``width``, ...) is then the first that is answered, else the
# first: what scores, rules and galleries look at. ``main`` and ``more`` say where it stands; `in_order`.
T2I = "t2i"
IMAGE_PLACEHOLDER = "<|image|>"  # in a message: an image

PAIRS = pa.schema(
    [
        ("key", pa.string()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("source", pa.string()),  # name of the recipe's source
        ("meta", pa.string()),  # the source's other columns, as JSON
        ("weight", pa.float64()),  # how much the pair counts, from the recipe or a column; null if unusable
        ("licence", pa.string()),
        ("path", pa.string()),  # where its image lies in its source, null when it is fetched by URL
        ("task", pa.string()),  # "t2i" of a plain pair, docs/tasks.md; null of what is no pair
        ("turns", pa.string()),  # of a sample that is no plain pair: JSON, see above
        ("main", pa.int32()),  # of several images, the number of the one in url or path, from 0
        ("more", pa.list_(pa.field("element", pa.string()))),  # URL or path of the others, in their order
    ]
)

PICTURE = pa.struct(
    [
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("image", pa.large_binary()),
    ]
)

IMAGES = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("status", pa.string()),  # "ok" or "failed"
        ("error", pa.string()),  # an ErrorClass, null when ok
        ("detail", pa.string()),  # what happened, for a person, null when ok
        ("http_status", pa.int32()),
        ("final_url", pa.string()),
        ("attempts", pa.int32()),
        ("sha256", pa.string()),  # of the bytes as received
        ("phash", pa.string()),  # 64-bit perceptual hash, 16 hex digits
        ("thumbnail", pa.binary()),  # 8 x 8 RGB pixels of the stored image on white, row by row
        ("original_format", pa.string()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("original_bytes", pa.int64()),
        ("format", pa.string()),  # of `image`: "jpeg", "png" or "webp"
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("image", pa.large_binary()),  # null when failed, and of a sample of text alone
        ("task", pa.string()),  # this and the next two as in `pairs`
        ("turns", pa.string()),
        ("main", pa.int32()),
        ("more", pa.list_(pa.field("element", PICTURE))),  # the other images of the sample, in their order
    ]
)

SCORES = pa.schema([("key", pa.string()), ("shard", pa.int32())])  # and a float64 column a score

SELECTION = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),  # "kept", "failed: <error>", "rule: <the part that said no>", ...
        ("duplicate_of", pa.string()),  # key of the row that was kept instead
    ]
)

CAPTIONS = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("captioner", pa.string()),  # of the recipe's section `caption`
        ("name", pa.string()),  # of the caption: the captioner's, or a field of its answers
        ("number", pa.int32()),  # of several captions of one name, from 0
        ("caption", pa.string()),  # null when failed
        ("error", pa.string()),  # an ErrorClass, null when there is a caption
        ("detail", pa.string()),  # what happened, for a person, null when there is a caption
        ("request", pa.string()),  # digest of all that was asked: the same request is not made again
        ("attempts", pa.int32()),
        ("tokens_in", pa.int32()),  # of the request, on the first row of an answer; null where none was asked
        ("tokens_out", pa.int32()),
        ("usd", pa.float64()),
        ("refusal", pa.bool_()),  # this and the next: what the checks find in the caption
        ("boilerplate", pa.bool_()),
        ("echo", pa.bool_()),  # it repeats the prompt
        ("names_model", pa.bool_()),
        ("repetition", pa.float64()),  # share of its runs of four words that stand in it before
        ("words", pa.int32()),
        ("language", pa.string()),  # ISO 639; null where the extra `language` is not installed
    ]
)

TOKENS = pa.schema(
    [
        ("target", pa.int32()),  # resolution: a bucket's area is about target * target pixels
        ("bucket", pa.string()),  # "<width>x<height>" in pixels of the sample's main image, or "text"
        ("key", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("task", pa.string()),
        ("input_ids", pa.list_(pa.field("element", pa.int32()))),
        ("loss_spans", pa.list_(pa.field("element", pa.int32()))),  # start, end, start, end, ...
        ("n_tokens", pa.int32()),
        ("caption", pa.string()),
        ("quality", pa.float64()),  # null where not scored, as the next two
        ("aesthetic", pa.float64()),
        ("clip", pa.float64()),
    ]
)

_CAPTION_IDS = [
    # Prompts of further captions: ids before the first answer. None of the one that ``input_ids`` have.
    (
        "captions",
        pa.list_(
            pa.field(
                "element",
                pa.struct([("name", pa.string()), ("ids", pa.list_(pa.field("element", pa.int32())))]),
            )
        ),
    ),
    ("longest", pa.int32()),  # tokens with the longest of the captions
]
PROMPTS = pa.schema([("key", pa.string()), ("bucket", pa.string()), ("order", pa.uint64()), *_CAPTION_IDS])
CAPTIONED_TOKENS = pa.schema([*TOKENS, *_CAPTION_IDS])  # of recipes with the section `caption`


class StepKind(StrEnum):
    """Kinds of steps of the workflow. A step's name is its kind, and ``/part`` where there are several."""

    PAIRS = "pairs"
    IMAGES = "images"
    SCORES = "scores"
    SELECTION = "selection"
    CAPTIONS = "captions"  # captions/<captioner>
    TEXT = "text"
    CODES = "codes"  # codes/<target>
    PROMPTS = "prompts"  # prompts/<target>: ids of the captions of each sequence
    TOKENS = "tokens"  # tokens/<target>
    LENGTHS = "lengths"  # lengths/<target>
    PINNED = "pinned"  # pinned/<corpus>-<version>-<target>
    TRAIN = "train"  # train/<number>-<label>
    SAMPLE = "sample"
    REPORT = "report"
    SUITE = "suite"  # suite/<suite>-<model>, of `rasterloom evaluate`

    @classmethod
    def of(cls, name: str) -> "StepKind | None":
        """Kind of the step of a name. None if it is none of the workflow's."""
        kind = name.partition("/")[0]
        return cls(kind) if kind in list(cls) else None

    @staticmethod
    def part(name: str) -> str:
        """Part of a step's name beside its kind: ``512`` of ``tokens/512``; empty if nothing."""
        return name.partition("/")[2]

    def step(self, part: object) -> str:
        """Name of the step of this kind for a part."""
        return f"{self}/{part}"


class ErrorClass(StrEnum):
    """Why a pair has no image, or an image no caption. The value stands in ``error`` of their tables."""

    BAD_URL = "bad_url"
    BAD_CAPTION = "bad_caption"
    BAD_ROW = "bad_row"  # a record of the source that gives no pair
    BLOCKED_SCHEME = "blocked_scheme"
    BLOCKED_ADDRESS = "blocked_address"
    OPT_OUT = "opt_out"  # on the recipe's list
    TAKEN_DOWN = "taken_down"  # by `versions takedown`
    ROBOTS = "robots"  # robots.txt or X-Robots-Tag
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    HTTP_4XX = "http_4xx"
    HTTP_429 = "http_429"
    HTTP_5XX = "http_5xx"
    BAD_RESPONSE = "bad_response"  # an answer that is no HTTP, or in a content coding that is not known
    HOST_DOWN = "host_down"  # not asked: its last images all failed
    HOST_BUSY = "host_busy"  # not asked: it wants to be left alone for longer than patience_s
    TOO_MANY_REDIRECTS = "too_many_redirects"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    INCOMPLETE = "incomplete"  # the connection closed, or the file ended, before the announced length
    MISSING_FILE = "missing_file"
    UNREADABLE_FILE = "unreadable_file"
    BLOCKED_PATH = "blocked_path"  # leads out of the source's folder
    HASH_MISMATCH = "hash_mismatch"  # another file than the source says
    NOT_AN_IMAGE = "not_an_image"
    BROKEN_IMAGE = "broken_image"
    NO_FIELD = "no_field"  # this and the next: of captions, in captions.error
    NO_ANSWER = "no_answer"  # an empty one, or one that the server's filter withheld
    CUT_ANSWER = "cut_answer"  # at max_tokens
    BAD_ANSWER = "bad_answer"  # not the JSON that was asked for
    BUDGET = "budget"  # not asked: the captioner's budget is spent
    KILLED_WORKER = "killed_worker"  # at this row alone, again and again: of memory, or a library's crash
    INTERNAL = "internal"


_KEY = hashlib.blake2b(digest_size=KEY_HEX_DIGITS // 2, person=b"rasterloom.pair")


def pair_key(
    url: str | None,
    caption: str | None,
    path: tuple[str, str] | None = None,
    sample: Sequence[str | None] = (),
) -> str:
    """Return the stable 128-bit key of a pair as 32 hex digits.

    An image that has no URL is known by its ``path``: the name of its source and its place in there. What
    else makes a sample that is no plain pair goes into ``sample``: its turns and its other images.
    Null and the empty string give different keys; surrogates that are not valid UTF-8 are kept apart.
    """
    digest = _KEY.copy()
    for parts in ((url, caption, *(path or ())), sample):
        for part in parts:
            data = b"" if part is None else part.encode("utf-8", "surrogatepass")
            digest.update(b"\x00" if part is None else b"\x01" + len(data).to_bytes(8, "little") + data)
        if sample and parts is not sample:
            digest.update(b"\x02")
    return digest.hexdigest()


def in_order(main: T | None, place: int | None, more: Sequence[T] | None) -> list[T]:
    """Return the images of a sample in the order of its placeholders.

    Args:
        main: the one in the columns of a pair; None if the sample has no image at all.
        place: its number among them, the column ``main``; None stands for 0.
        more: the others, the column ``more``.
    """
    others = list(more or ())
    return others if main is None else [*others[: place or 0], main, *others[place or 0 :]]


TEXT_BUCKET = "text"  # of a sample without images; its width and height are 0


def bucket_name(width: int, height: int) -> str:
    """Return the name of a bucket in pixels, such as ``1024x256``."""
    return f"{width}x{height}"


@dataclass(frozen=True)
class Profile:
    """Token ids that differ between model families.

    A sequence made under one profile means nothing under another. The instances are in
    ``rasterloom.tokenize.profiles``; training receives one and never looks further.
    """

    name: str
    downsample: int  # pixels a side for one code
    codebook_size: int
    bos: int
    pad: int
    sep: int  # ends every turn of a conversation
    boi: int
    eoi: int
    eol: int  # ends every row of codes
    grid0: int  # a count of n grid units has id grid0 + n
    image0: int  # code c has id image0 + c, unless image_ids says otherwise
    text0: int  # first id of text that is trained on the corpus
    vocab_size: int
    grid_unit: int = 32  # pixels a grid unit counts
    drop: str = "context"  # what CFG dropping removes: "context" leaves boi .. eoi, see docs/tokens.md
    image_ids: tuple[int, ...] | None = None  # id of each code where they are not contiguous
