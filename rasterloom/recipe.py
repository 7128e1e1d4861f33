"""The recipe: one YAML file that says what a corpus is made of and how a model is trained on it.

Each section is the config of one kind of step, and every field of it is part of that step's identity:
change a field and the step, and what follows from it, runs again. What only changes *how fast* a step
runs stands in ``run``, which is nobody's identity.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)


class RecipeError(ValueError):
    """The recipe cannot be used; the message names the field and what it takes."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


KINDS = ("parquet", "csv", "jsonl", "conversations", "folder", "webdataset", "img2dataset", "hf")


class Column(Section):
    """A value that each row brings itself."""

    column: str


class Source(Section):
    """Image-text pairs: a list of URLs, or images with their captions. docs/sources.md tells of each kind."""

    path: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """A file, a folder, a glob, s3://bucket/key, or a list of these; hf://owner/name of a data set on the
    Hugging Face hub. A relative path is taken from the recipe's folder."""
    kind: str = "auto"
    """parquet, csv, jsonl, conversations, folder, webdataset, img2dataset or hf; by the path when auto."""
    name: str = ""
    """Name of the source in the tables; that of its file, without its suffix, or folder when empty."""
    url: str = "url"
    """Column that holds the URL."""
    caption: str = "caption"
    """Column that holds the caption."""
    image: str = ""
    """Column that holds the image itself, in Parquet files and Hugging Face data sets."""
    root: str = ""
    """Folder that the images of a conversations file lie in; the file's own when empty."""
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
        if value not in ("auto", *KINDS):
            raise ValueError(f"unknown kind {value!r}; known: auto, {', '.join(KINDS)}")
        return value

    @field_validator("path", mode="before")
    @classmethod
    def _names_files(cls, value: Any) -> Any:
        paths = value if isinstance(value, list | tuple) else [value]
        if not paths or not all(isinstance(path, str) and path for path in paths):
            raise ValueError(f"takes a path or a list of paths, not {value!r}")
        return value

    @field_validator("weight", "licence", mode="before")
    @classmethod
    def _constant_or_column(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Column):
            return value
        if isinstance(value, dict):
            if set(value) != {"column"} or not isinstance(value["column"], str):
                raise ValueError(f"takes {{column: NAME}}, not {value!r}")
        elif info.field_name == "licence":
            if not isinstance(value, str):
                raise ValueError(f"takes a text or {{column: NAME}}, not {value!r}")
        elif not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise ValueError(f"takes a number above 0 or {{column: NAME}}, not {value!r}")
        return value

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path


OptOutTag = Literal["noai", "noimageai", "noml", "noindex", "noimageindex"]


class Fetch(Section):
    """How images are fetched, and in what form they are kept."""

    max_side: int = Field(1536, ge=32)
    """Longest side of a stored image, in pixels; larger ones are scaled down."""
    engine: Literal["rasterloom", "img2dataset"] = "rasterloom"
    """Who fetches; see docs/fetch.md for what img2dataset leaves out."""
    deadline_s: float = Field(30.0, gt=0)
    """Seconds a picture may take in all, attempts and redirects added up, to the last byte; waiting for
    one's turn does not count."""
    retries: int = Field(2, ge=0)
    """Further attempts after a failure that may pass (5xx, 429, reset), while the deadline lasts."""
    per_host: int = Field(8, ge=1)
    """Requests of one worker under way at once to one host."""
    host_rate: float | None = Field(None, gt=0)
    """Requests a second of one worker to one host; null: no limit but the host's own Crawl-delay."""
    patience_s: float = Field(60.0, ge=0)
    """Seconds a row waits where a host asks for it (Crawl-delay, Retry-After), and then fails."""
    host_down_after: int = Field(20, ge=0)
    """Failed requests in a row after which a host counts as down and is not asked; 0: never."""
    host_down_s: float = Field(300.0, gt=0)
    """Seconds after which one row tries a host that is down."""
    concurrency: int = Field(64, ge=1)
    """Requests under way at once in one worker."""
    max_bytes: int = Field(50_000_000, ge=1)
    """A larger body is given up."""
    max_pixels: int = Field(100_000_000, ge=1)
    """A picture that declares more is not decoded."""
    max_redirects: int = Field(5, ge=0)
    robots: bool = True
    """Obey robots.txt."""
    opt_out_tags: tuple[OptOutTag, ...] = ("noai", "noimageai", "noml")
    """Directives of the X-Robots-Tag header that are obeyed; add noindex or noimageindex by choice."""
    opt_out: str | None = None
    """Text, CSV or Parquet file of hosts, URLs, prefixes and SHA-256 hashes that are not taken."""
    md5: str | None = None
    """Column of the sources with the MD5 of the file, in hex, that it must have."""
    sha256: str | None = None
    """Column of the sources with the SHA-256 of the file, in hex, that it must have."""
    allow_hosts: tuple[str, ...] = ()
    """``host:port`` pairs that may be private addresses: intranets, tests."""
    user_agent: str = "rasterloom/0.1 (+https://github.com/rasterloom/rasterloom)"
    """Name and contact: whoever runs the fetch should put an address of their own here."""
    jpeg_quality: int = Field(92, ge=1, le=100)
    shard_rows: int = Field(1000, ge=1)
    """Pairs in a shard: the unit of work that is lost at most when a worker dies."""

    @model_validator(mode="after")
    def _engine_can(self) -> "Fetch":
        if self.engine == "img2dataset" and self.md5:
            raise ValueError("engine img2dataset computes SHA-256 only: give sha256, or no md5")
        return self


class Score(Section):
    """A scorer by name, with its options: ``quality`` or ``{aesthetic: {head: head.pth}}``."""

    name: str
    options: dict[str, Any] = {}


class Dedup(Section):
    """Of images that double each other, one is kept: what was kept before, else the best."""

    exact: bool = True
    """Drop images whose bytes are the same."""
    phash_radius: int | None = Field(4, ge=0, le=16)
    """Drop images whose 64-bit perceptual hashes differ in at most so many bits; null: keep them."""
    semantic: float | None = Field(None, gt=0, le=1)
    """Drop images whose CLIP embeddings have at least this cosine (0.95 is cautious); null: keep them. It
    takes a score with ``keep_embeddings: true``."""
    prefer: str = ""
    """Score to keep the best of a group by; the largest image when empty."""
    memory: bool = True
    """What the corpus's last version kept of a group stays what is kept of it, whatever comes after, as long
    as the other fields here are the same; false: every version chooses anew."""


class Keep(Section):
    """Which images are kept."""

    rule: str = "true"
    """SQL over the columns of images and scores, and ``min_side``, ``max_side``, ``area``, ``aspect``,
    ``caption_length``."""
    dedup: Dedup = Dedup()


CODECS = ("mini",)


class Tokenize(Section):
    """How a kept pair becomes a Uni-Rep sequence."""

    codec: str = "mini"
    """Network that turns a picture into codes: mini."""
    weights: str | None = None
    """Weights of the codec; mini brings its own."""
    text: str | None = None
    """A tokenizer.json of your own; else a byte-level BPE is trained on the corpus."""
    text_vocab: int = Field(439, ge=256)
    """Size of the text vocabulary when it is trained on the corpus."""
    targets: tuple[int, ...] = (512,)
    """Resolutions: a target of 512 gives buckets of about 512 x 512 pixels."""
    crop: Literal["random", "center"] = "random"
    """Where a crop lies: seeded by the pair's key, or in the middle."""
    batch: int = Field(32, ge=1)
    rows_per_file: int = Field(20_000, ge=1)
    seed: int = 0

    @field_validator("codec")
    @classmethod
    def _known_codec(cls, value: str) -> str:
        if value not in CODECS:
            raise ValueError(f"unknown codec {value!r}; known: {', '.join(CODECS)}")
        return value

    @field_validator("targets")
    @classmethod
    def _multiples(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("name at least one target")
        for target in value:
            if target < 32 or target % 32:
                raise ValueError(f"a target is a multiple of 32 pixels; {target} is not")
        if len(set(value)) != len(value):
            raise ValueError("a target is named twice")
        return value


class Stage(Section):
    """One stage of FP-SFT: a resolution and how long and how fast to train on it."""

    target: int = Field(ge=32)
    epochs: float | None = Field(None, gt=0)
    """Passes over the stage's rows; give this or ``steps``."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps; give this or ``epochs``."""
    lr: float = Field(2e-5, gt=0)
    min_lr: float | None = Field(None, ge=0)
    """Learning rate at the end, by a half cosine; constant after the warm-up when null."""
    warmup_steps: int = Field(10, ge=0)
    batch_tokens: int = Field(65_536, ge=1)
    """Tokens in a global batch, over all workers."""

    @model_validator(mode="after")
    def _one_length(self) -> "Stage":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        return self


class DeepSpeed(Section):
    zero: Literal[0, 1, 2, 3] = 2
    """ZeRO stage."""
    bf16: bool = False


class Train(Section):
    """FP-SFT: each stage starts from the weights of the one before it."""

    init: str = "tiny"
    """``tiny`` for a small model from scratch, or the folder of a Chameleon checkpoint."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    deepspeed: DeepSpeed = DeepSpeed()
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon`` learns faster from scratch; it takes ``deepspeed: {zero: 0}``."""
    seed: int = 0
    heldout: float = Field(0.02, ge=0, lt=1)
    """Share of rows, chosen by key, that is never trained on."""
    z_loss: float = Field(1e-5, ge=0)
    cfg_drop: float = Field(0.1, ge=0, le=1)
    """Share of samples trained without their prompt, for classifier-free guidance."""
    dropout: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.1, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    checkpoint_every: int = Field(200, ge=1)
    """Steps between checkpoints; the end of a stage always makes one."""

    @model_validator(mode="after")
    def _muon_sees_whole_matrices(self) -> "Train":
        if self.optimizer == "muon" and (self.deepspeed.zero or self.deepspeed.bf16):
            raise ValueError(
                "optimizer muon takes deepspeed: {zero: 0, bf16: false}, it needs whole matrices"
            )
        return self


class ColourCheck(Section):
    """Does the model draw the colour that it is asked for? The shares are in the report."""

    palette: dict[str, tuple[int, int, int]] = Field(min_length=2)
    """Colours by name, RGB."""
    prompts: tuple[str, ...] = Field(min_length=1)
    """Prompts with ``{colour}`` in them, each drawn in every colour of the palette."""
    draws: int = Field(1, ge=1)
    """Pictures for each prompt and colour."""
    size: tuple[int, int]

    @field_validator("prompts")
    @classmethod
    def _has_colour(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for prompt in value:
            if "{colour}" not in prompt:
                raise ValueError(f"{prompt!r} lacks {{colour}}")
        return value


class Sample(Section):
    """Pictures drawn by the last checkpoint, for the report."""

    prompts: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) in pixels, buckets of the last target; a square, a wide and a tall one when empty."""
    cfg: float = Field(3.0, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_k: int = Field(2000, ge=1)
    seed: int = 0
    colour_check: ColourCheck | None = None


class Run(Section):
    """How fast, not what: nothing here is part of a step's identity."""

    ray_address: str | None = None
    """Address of a Ray cluster; null starts Ray on this machine."""
    cpus: int | None = Field(None, ge=1)
    """CPUs of a Ray started here; all of them when null."""
    in_flight: int | None = Field(None, ge=1)
    """Shards under way at once; two a CPU when null."""
    train_workers: int = Field(2, ge=1)
    use_gpu: bool = False
    """Take GPUs: for training, and an actor on each for the scores that gain by it."""
    min_success: float = Field(0.05, ge=0, le=1)
    """Fetching stops when a smaller share of the last ``success_window`` pairs became images; 0: never."""
    success_window: int = Field(2000, ge=1)
    img2dataset_python: str | None = None
    """Python that has img2dataset installed, for ``fetch: {engine: img2dataset}``; this one when null."""


class Recipe(Section):
    corpus: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Name of the corpus: a namespace of tables in the workspace."""
    workspace: str = "./work"
    """A folder, or s3://bucket/prefix; a relative folder is taken from the recipe's folder."""
    catalog: dict[str, str] = {}
    """Properties for pyiceberg's load_catalog; an SQLite file in a local workspace when empty."""
    sources: tuple[Source, ...] = Field(min_length=1)
    fetch: Fetch = Fetch()
    score: tuple[Score, ...] = (Score(name="quality"),)
    keep: Keep = Keep()
    tokenize: Tokenize = Tokenize()
    train: Train | None = None
    sample: Sample = Sample()
    run: Run = Run()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        """Accept ``keep: SQL`` beside ``dedup:``, and bare scorer names, as the README shows them."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if isinstance(data.get("keep"), str):
            data["keep"] = {"rule": data["keep"]}
        if "dedup" in data and isinstance(data.setdefault("keep", {}), dict):
            data["keep"] = {**data["keep"], "dedup": data.pop("dedup")}
        if isinstance(data.get("score"), list | tuple):
            data["score"] = [_scorer(item) for item in data["score"]]
        return data

    @model_validator(mode="after")
    def _stages_have_tokens(self) -> "Recipe":
        for number, stage in enumerate(self.train.stages if self.train else ()):
            if stage.target not in self.tokenize.targets:
                raise ValueError(
                    f"train.stages[{number}].target is {stage.target}, which tokenize.targets "
                    f"{list(self.tokenize.targets)} does not name"
                )
        return self


def _scorer(item: Any) -> Any:
    if isinstance(item, str):
        return {"name": item}
    if isinstance(item, dict) and "name" not in item and len(item) == 1:
        (name, options), *_ = item.items()
        return {"name": name, "options": options or {}}
    return item


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe.

    Relative paths in it are taken from the recipe's folder, so that it can be run from anywhere.

    Raises:
        RecipeError: the file is missing, is not YAML, or a field is wrong. One line a problem, each with
            the field's name, what it got and what it takes.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path} holds no recipe: expected fields such as corpus and sources")
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{path}: {line}" for line in _explain(error))) from None
    return _from_folder(recipe, path.parent.resolve())


def _explain(error: ValidationError) -> list[str]:
    """Turn pydantic's findings into one line each: field, what is wrong, what it got."""
    items = error.errors(include_url=False)
    # An item that is wrong makes the list around it "too short": only the item is news.
    inner = {item["loc"][:n] for item in items for n in range(1, len(item["loc"]))}
    lines = []
    for item in items:
        if item["loc"] in inner:
            continue
        parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]]
        field = "".join(parts).lstrip(".")
        if item["type"] == "extra_forbidden":
            lines.append(f"{field}: no such field{_did_you_mean(item['loc'])}")
        elif item["type"] == "missing":
            lines.append(f"{field}: required, but missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            got = "" if item["type"] == "value_error" else f" (got {_short(item['input'])})"
            lines.append(f"{field}: {message}{got}" if field else message + got)
    return lines


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _did_you_mean(loc: tuple[int | str, ...]) -> str:
    import difflib

    model: Any = Recipe
    for part in loc[:-1]:
        model = _section_of(model, part)
        if model is None:
            return ""
    close = difflib.get_close_matches(str(loc[-1]), model.model_fields, n=1)
    known = ", ".join(model.model_fields)
    return f"; did you mean {close[0]}?" if close else f"; known here: {known}"


def _section_of(model: Any, part: int | str) -> Any:
    """Follow one step of an error's location into the section that it names, else None."""
    from typing import get_args

    if isinstance(part, int):
        return model
    field = model.model_fields.get(part)
    stack = [field.annotation] if field else []
    while stack:
        kind = stack.pop()
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
        stack.extend(get_args(kind))
    return None


def _from_folder(recipe: Recipe, folder: Path) -> Recipe:
    """Resolve the recipe's relative paths against its folder."""

    def resolve(path: str) -> str:
        return path if "://" in path else str((folder / Path(path).expanduser()).resolve())

    def place(source: Source) -> Source:
        path = resolve(source.path) if isinstance(source.path, str) else tuple(map(resolve, source.path))
        return source.model_copy(update={"path": path, "root": source.root and resolve(source.root)})

    sources = tuple(map(place, recipe.sources))

    def here(path: str) -> str:  # not resolved further: a link to Python makes an environment
        return str(folder / Path(path).expanduser()) if "/" in path else path

    python = recipe.run.img2dataset_python
    run = recipe.run.model_copy(update={"img2dataset_python": here(python)} if python else {})
    fetch = recipe.fetch.model_copy(
        update={"opt_out": resolve(recipe.fetch.opt_out)} if recipe.fetch.opt_out else {}
    )
    tokenize = recipe.tokenize.model_copy(
        update={f: resolve(v) for f in ("weights", "text") if (v := getattr(recipe.tokenize, f)) is not None}
    )

    def resolve_if_there(value: Any) -> Any:  # an option may as well be the name of a model on a hub
        return resolve(value) if isinstance(value, str) and (folder / value).exists() else value

    score = tuple(
        s.model_copy(update={"options": {k: resolve_if_there(v) for k, v in s.options.items()}})
        for s in recipe.score
    )
    workspace = resolve(recipe.workspace)
    return recipe.model_copy(
        update={
            "sources": sources,
            "fetch": fetch,
            "score": score,
            "tokenize": tokenize,
            "run": run,
            "workspace": workspace,
        }
    )
