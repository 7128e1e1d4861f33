"""`sources`: where pairs come from."""

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from rasterloom.recipe.base import Section
from rasterloom.utils import plugins

KINDS = ("parquet", "csv", "jsonl", "conversations", "folder", "webdataset", "img2dataset", "hf")


class Column(Section):
    """A value that each row brings itself."""

    column: str
    """Its column in the source."""


class Source(Section):
    """Image-text pairs: a list of URLs, or images with their captions. docs/sources.md tells of each kind."""

    path: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """A file, a folder, a glob, s3://bucket/key, or a list of these; hf://owner/name of a data set on the
    Hugging Face hub. A relative path is taken from the recipe's folder."""
    kind: str = "auto"
    """parquet, csv, jsonl, conversations, folder, webdataset, img2dataset, hf, or a plug-in's; by the path
    when auto."""
    name: str = ""
    """Name of the source in the tables; that of its file, without its suffix, or folder when empty."""
    url: str = "url"
    """Column that holds the URL."""
    caption: str = "caption"
    """Column that holds the caption."""
    image: str = ""
    """Column that holds the image itself, in Parquet files and Hugging Face data sets."""
    task: str | Column = ""
    """Task of the rows, as docs/tasks.md has them, or ``{column: NAME}``; t2i when empty."""
    input: str = ""
    """Column with the picture, or the list of pictures, that a task asks about: a URL, a path in the source's
    folder or, in Parquet files, the picture itself. When empty, the row's own picture."""
    output: str = ""
    """Column with the picture, or the list of pictures, that a task answers with."""
    root: str = ""
    """Folder that the images lie in that a conversations file, or the columns ``input`` and ``output``, name;
    the file's own when empty."""
    weight: float | Column = 1.0
    """How much a pair counts beside those of other sources: a number, or ``{column: NAME}``."""
    licence: str | Column = ""
    """Licence of the images: a text, or ``{column: NAME}``."""
    split: str = "train"
    """Split of a Hugging Face data set."""
    config: str | None = None
    """Configuration of a Hugging Face data set."""
    revision: str | None = None
    """Commit, branch or tag of a Hugging Face data set on the hub."""

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value not in ("auto", *KINDS) and plugins.find(plugins.READERS, value) is None:
            known = plugins.known_names(plugins.READERS, ("auto", *KINDS))
            raise ValueError(f"unknown kind {value!r}; known: {known}")
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

    @property
    def has_tasks(self) -> bool:
        """Whether its rows may be something else than plain pairs."""
        return bool(self.task or self.input or self.output)

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path
