"""Section `caption`: captions by endpoints, models and columns of the sources."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rasterloom.recipe.base import Section
from rasterloom.recipe.sandboxed_templates import check_template
from rasterloom.utils.redact import cut

ALT = "alt"
"""Name of the caption as found."""
NAME = r"^[a-z][a-z0-9_]*$"
FIELDS = ("alt", "url", "host", "source", "width", "height", "meta")
"""Names that a prompt can speak of."""
PROMPT = "Describe this image in one or two plain sentences."
RULE = "not refusal and not boilerplate and not echo and not names_model and repetition < 0.4"
_OWN = ("model", "messages", "stream", "n")


class Endpoint(Section):
    """OpenAI-compatible chat completions with images: vLLM, SGLang, a cloud (docs/captions.md)."""

    url: str = Field(exclude=True)
    """Address up to ``/v1``; ``/chat/completions`` is added. Another address of the same model runs nothing
    again."""
    model: str
    """Name of the model there."""
    version: str = ""
    """Any text; another one runs the captioner again, as where a server has another model under the name."""
    key: str = Field("", exclude=True)
    """Name of the environment variable that holds the key; empty: none is sent."""
    private: bool = Field(False, exclude=True)
    """Allow a private address, such as a server of the same cluster; localhost is allowed anyway."""
    max_side: int | None = Field(1024, ge=32)
    """Longest side of an image as it is sent, in pixels; null: as stored."""
    max_tokens: int = Field(512, ge=1)
    """Length limit of an answer; one that reaches it fails as ``cut_answer``."""
    temperature: float = Field(0.0, ge=0)
    """Sampling temperature."""
    constrain: bool = False
    """Send the form of the answers as ``response_format``, where the server can keep a model to it."""
    options: dict[str, Any] = Field({})
    """Further fields of each request, such as ``{top_p: 0.9, seed: 1}``."""
    concurrency: int = Field(16, ge=1, exclude=True)
    """Requests on their way at once."""
    per_minute: float | None = Field(None, gt=0, exclude=True)
    """Rate limit in requests a minute; null: none."""
    timeout_s: float = Field(120.0, gt=0, exclude=True)
    """Seconds for one answer."""
    retries: int = Field(4, ge=0, exclude=True)
    """Retries after a transient failure (5xx, 429, timeout, broken connection)."""
    patience_s: float = Field(120.0, ge=0, exclude=True)
    """Seconds that a request waits at most where the server asks for it (Retry-After); then it fails."""
    max_bytes: int = Field(1_000_000, ge=1, exclude=True)
    """Size limit of a response, in bytes."""
    down_after: int = Field(20, ge=1, exclude=True)
    """Failed requests in a row after which no more are made and the run ends."""
    usd_in: float = Field(0.0, ge=0, exclude=True)
    """Dollars for a million tokens of prompts and images."""
    usd_out: float = Field(0.0, ge=0, exclude=True)
    """Dollars for a million tokens of answers."""
    budget_usd: float | None = Field(None, gt=0, exclude=True)
    """Dollars after which no more requests are made and the run ends; raise it to go on."""
    budget_tokens: int | None = Field(None, gt=0, exclude=True)
    """Tokens, of prompts and answers, after which no more requests are made and the run ends."""

    @field_validator("key")
    @classmethod
    def _is_a_variable(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            # What was given may be the key itself, and is not shown.
            raise ValueError("takes the name of an environment variable, such as OPENAI_API_KEY, and no key")
        return value

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not re.match(r"https?://[^/]", value):
            raise ValueError("takes an address such as http://127.0.0.1:8000/v1")
        if "@" in value.split("/")[2]:
            raise ValueError("holds a login: a recipe has no secrets; give key the name of a variable")
        return value.rstrip("/")

    @field_validator("options")
    @classmethod
    def _leaves_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in (*_OWN, "max_tokens", "temperature", "response_format"):
                raise ValueError(f"{name} is set by Rasterloom")
        return value

    @model_validator(mode="after")
    def _budget_has_a_price(self) -> "Endpoint":
        if self.budget_usd is not None and not (self.usd_in or self.usd_out):
            raise ValueError("budget_usd: takes prices, usd_in and usd_out; or give budget_tokens")
        return self


class LocalModel(Section):
    """Vision-language model of transformers (``image-text-to-text``) from a folder."""

    path: str = Field(exclude=True)
    """Folder of the model. What it holds is part of the identity, not where it lies."""
    max_side: int | None = Field(1024, ge=32)
    """Longest side of an image as the model gets it, in pixels; null: as stored."""
    max_tokens: int = Field(256, ge=1)
    """Length limit of an answer; one that reaches it fails as ``cut_answer``."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Precision of the weights."""
    batch: int = Field(8, ge=1, exclude=True)
    """Images of a batch; it is halved where a GPU's memory does not hold them."""


class Captioner(Section):
    """Captioner by name: one of ``endpoint``, ``local`` and ``field``."""

    name: str
    """Name of the captioner, and of its captions where ``answers`` is empty."""
    endpoint: Endpoint | None = None
    """Endpoint that is asked."""
    local: LocalModel | None = None
    """Model that is run on this machine or cluster."""
    field: str | None = None
    """Column of the sources, or a field in one: ``text.long``, ``captions[0]``; ``captions[*]``: each item of
    a list is a caption."""
    prompt: str = PROMPT
    """Template (Jinja) of what is asked, with ``{{ alt }}`` (the caption as found), ``url``, ``host``,
    ``source``, ``width``, ``height`` and ``meta`` (the source's other columns, ``meta.title``)."""
    answers: tuple[str, ...] = ()
    """Names of several captions in one answer, a JSON object with these fields, such as [short, long, tags];
    the prompt asks for them. Empty: the whole answer is the caption."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its captions."""
        return self.answers or (self.name,)

    @field_validator("prompt")
    @classmethod
    def _is_a_template(cls, value: str) -> str:
        check_template(value, FIELDS)
        return value

    @field_validator("name", "answers")
    @classmethod
    def _are_names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in (value,) if isinstance(value, str) else value:
            if not re.fullmatch(NAME, name):
                raise ValueError(f"{cut(name, 60)!r} is no name: takes small letters, digits and _")
        return value

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> "Captioner":
        if sum(given is not None for given in (self.endpoint, self.local, self.field)) != 1:
            raise ValueError("give one of endpoint, local and field")
        if self.field is not None and self.model_fields_set & {"prompt", "answers"}:
            raise ValueError("field: prompt and answers are for models")
        return self


class Caption(Section):
    """Captions beside those of the sources, in the table ``captions``."""

    by: tuple[Captioner, ...] = Field(min_length=1)
    """Captioners."""
    keep: str = RULE
    """Rule (SQL) that a caption must pass to be tokenized, over the columns of its checks: ``refusal``,
    ``boilerplate``, ``echo``, ``names_model``, ``repetition``, ``words``, ``language``, and ``caption``,
    ``captioner``, ``name``. It asks no model again."""
    shard_rows: int = Field(500, ge=1)
    """Images in a shard: the unit of work, and the most that is asked again when a worker dies."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all captions that it gives."""
        return tuple(name for captioner in self.by for name in captioner.names)

    @model_validator(mode="before")
    @classmethod
    def _a_list_of_captioners(cls, data: Any) -> Any:
        return {"by": data} if isinstance(data, list | tuple) else data

    @model_validator(mode="after")
    def _names_differ(self) -> "Caption":
        for what, given in (("captioner", [one.name for one in self.by]), ("caption", list(self.names))):
            twice = sorted({name for name in given if given.count(name) > 1})
            if twice:
                raise ValueError(f"two {what}s are called {twice[0]}")
        if ALT in self.names:
            raise ValueError(f"{ALT} is the caption as found: take another name")
        return self
