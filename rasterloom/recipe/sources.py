"""Section `sources`: sources of image-text pairs."""

import codecs
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from rasterloom.recipe.base import Section
from rasterloom.utils import plugins

KINDS = (
    "parquet",
    "arrow",
    "csv",
    "jsonl",
    "json",
    "txt",
    "conversations",
    "folder",
    "webdataset",
    "img2dataset",
    "hf",
)
NO_CAPTION = "none"  # in place of a column
NO_QUOTE, AUTO_QUOTE = "none", "auto"  # in place of a character
_NO_ENCODINGS = (
    "idna",
    "punycode",
    "unicode-escape",
    "raw-unicode-escape",
    "undefined",
    "utf-7",
    "mbcs",
    "oem",
)


class Column(Section):
    """Value from a column of each row."""

    column: str
    """Column in the source."""


class Source(Section):
    """Image-text pairs: a list of URLs, or images with captions; docs/sources.md describes each kind."""

    path: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """File, folder, glob, s3://bucket/key, another address that pyarrow or fsspec opens (gs://, az://,
    https://), or a list of these; hf://owner/name of a dataset on the Hugging Face Hub. A relative path is
    relative to the recipe's folder."""
    kind: str = "auto"
    """parquet, arrow, csv, jsonl, json, txt, conversations, folder, webdataset, img2dataset, hf, or a
    plug-in's (docs/extending.md); auto: by the path."""
    name: str = ""
    """Name of the source in the tables; empty: that of its file, without its suffix, or folder."""
    url: str = "url"
    """Column with the URL, or a field in one: ``image.src``, ``urls[0]``, ``urls[*]`` (a row an item)."""
    caption: str = "caption"
    """Column with the caption, or a field in one: ``text.long``, ``captions[0]``, ``captions[*]`` (a row an
    item); none: the images have no captions."""
    image: str = ""
    """Column with the image: a path in the source's folder or a URL or, in Parquet files and Hugging Face
    datasets, the image itself."""
    task: str | Column = ""
    """Task of the rows (docs/tasks.md), or ``{column: NAME}``; empty: t2i."""
    input: str = ""
    """Column with the image, or the list of images, in a task's prompt: a URL, a path in the source's folder
    or, in Parquet files, the image itself. Empty: the row's own image."""
    output: str = ""
    """Column with the image, or the list of images, in a task's answer."""
    root: str = ""
    """Folder of the images that a conversations file, or the columns ``image``, ``input`` and ``output``,
    name; empty: the file's own."""
    weight: float | Column = 1.0
    """Sampling weight of a pair in training, relative to the others: a number, or ``{column: NAME}``."""
    licence: str | Column = ""
    """Licence of the images: text, or ``{column: NAME}``."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a CSV or TSV file without a header."""
    delimiter: str = ""
    """Character between the values of a CSV file; empty: a comma, in a ``.tsv`` a tab."""
    quote: str = AUTO_QUOTE
    """Character around values of a CSV file; none: no value is quoted; auto: ``"``, none in a ``.tsv``."""
    escape: str = ""
    """Character before a quote within a quoted value of a CSV file, where it is not a second quote."""
    encoding: str = ""
    """Encoding of a list of text, such as latin-1; empty: UTF-8, or by its byte order mark."""
    split: str = "train"
    """Split of a Hugging Face dataset."""
    config: str | None = None
    """Configuration of a Hugging Face dataset."""
    revision: str | None = None
    """Commit, branch or tag of a Hugging Face dataset on the hub."""

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value not in ("auto", *KINDS) and plugins.find(plugins.READERS, value) is None:
            known = plugins.known_names(plugins.READERS, value, ("auto", *KINDS))
            raise ValueError(f"unknown kind {value!r}; {known}")
        return value

    @field_validator("path", mode="before")
    @classmethod
    def _names_files(cls, value: Any) -> Any:
        paths = value if isinstance(value, list | tuple) else [value]
        if not paths or not all(isinstance(path, str) and path for path in paths):
            raise ValueError(f"takes a path or a list of paths, not {value!r}")
        return value

    @field_validator("weight", "licence", "task", mode="before")
    @classmethod
    def _constant_or_column(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Column):
            return value
        if isinstance(value, dict):
            if set(value) != {"column"} or not isinstance(value["column"], str):
                raise ValueError(f"takes {{column: NAME}}, not {value!r}")
        elif info.field_name != "weight":
            if not isinstance(value, str):
                raise ValueError(f"takes a text or {{column: NAME}}, not {value!r}")
        elif not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise ValueError(f"takes a number above 0 or {{column: NAME}}, not {value!r}")
        return value

    @field_validator("delimiter", "quote", "escape")
    @classmethod
    def _one_character(cls, value: str, info: ValidationInfo) -> str:
        if info.field_name == "quote" and value in (NO_QUOTE, AUTO_QUOTE):
            return value
        if (len(value) != 1 and (value or info.field_name == "quote")) or value in ("\r", "\n", "\0"):
            raise ValueError(f"takes one character, not {value!r}")
        return value

    @field_validator("columns")
    @classmethod
    def _named_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for number, name in enumerate(value) if name in value[:number]]
        if twice:
            raise ValueError(f"names {twice[0]!r} twice")
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            known = codecs.lookup(value).name.replace("_", "-") if value else ""
            "a".encode(value or "utf-8")  # a LookupError for codecs of bytes
            is_known = known not in _NO_ENCODINGS
        except (LookupError, UnicodeError):
            is_known = False
        if not is_known:
            raise ValueError(
                f"unknown encoding {value!r}; it takes one such as utf-8, utf-16, latin-1, cp1252"
            )
        return value

    @model_validator(mode="after")
    def _characters_differ(self) -> "Source":
        named = [c for c in (self.delimiter, self.quote, self.escape) if c not in ("", NO_QUOTE, AUTO_QUOTE)]
        if len(set(named)) < len(named):
            raise ValueError("delimiter, quote and escape are to be different characters")
        return self

    @model_validator(mode="after")
    def _one_list_of_rows(self) -> "Source":
        every = [name for name in ("url", "caption") if "[*]" in getattr(self, name)]
        if len(every) > 1:
            raise ValueError("only one of url and caption can make a row of every item, by [*]")
        return self

    @property
    def has_captions(self) -> bool:
        """False if its images have no captions."""
        return self.caption != NO_CAPTION

    @property
    def has_tasks(self) -> bool:
        """True if its rows may be other than plain pairs."""
        return bool(self.task or self.input or self.output)

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path
