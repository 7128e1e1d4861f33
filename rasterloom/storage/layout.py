"""Names of all files of a workspace and its results.

A name is relative to the root of the :class:`~rasterloom.storage.store.Store`; no other module builds one.
"""

from dataclasses import dataclass

# Folders of a corpus.
RECORDS = "records"
FILES = "files"
STAGING = "staging"

# Files in the folders of results.
EVALUATION = "evaluation.json"  # of a stage
GRID = "grid.png"  # of samples
LENGTHS = "lengths.parquet"  # the length index
LENGTHS_FILES = b"rasterloom.files"  # key of its metadata: the token files that it is of
INDEX_HTML = "index.html"  # of a report
PROFILE = "profile.json"  # of a model: the ids that it was trained on
VOCABULARY = "vocabulary"  # in it: digest of the text vocabulary
FIRST_TEXT_ID = "first_text_id"  # in it: the model's id of the tokenizer's id 0
CARD = "README.md"  # of a model
STREAMS = "streams"  # in a checkpoint's record: version of the random draws
SAMPLES_JSON = "samples.json"
SUITE = "suite.parquet"  # of samples: the suite's images, judged
TOKENIZER = "tokenizer.json"  # the text vocabulary
TOKENIZER_CONFIG = "tokenizer_config.json"  # in a model: the names of its special tokens
CHECKPOINTS = "checkpoints"  # folder of a stage
MODEL = "model"  # folder of a stage
PROFILES = "profiles"  # folder of a stage: traces of torch's profiler
MODEL_EMA = "model_ema"  # folder of a stage: the average of its weights

CATALOG = "catalog.db"  # of a local workspace
ANY_METADATA = "*/tables/*/metadata/*.metadata.json"  # of Iceberg, beside the catalog
LAST = "last"  # in place of a fingerprint: the record of the step's last run


@dataclass(frozen=True)
class Layout:
    """Names of the files of one corpus."""

    corpus: str

    def folder(self, name: str) -> str:
        """One of the folders named above."""
        return f"{self.corpus}/{name}"

    @property
    def records(self) -> str:
        """Folder of the records of steps without a table."""
        return self.folder(RECORDS)

    def records_of(self, step: str) -> str:
        """Folder of one step's records."""
        return f"{self.records}/{step}"

    def record(self, step: str, fingerprint: str) -> str:
        """Record of a step without a table. Of its last run where the fingerprint is :data:`LAST`."""
        return f"{self.records_of(step)}/{fingerprint}.json"

    def is_last(self, name: str) -> bool:
        """True if a record is that of a step's last run."""
        return name.endswith(f"/{LAST}.json")

    def files(self, step: str, fingerprint: str) -> str:
        """Folder with the result of a step that makes files."""
        return f"{self.folder(FILES)}/{step}/{fingerprint}"

    def text(self, fingerprint: str) -> str:
        """Text vocabulary that the step ``text`` made."""
        return f"{self.files('text', fingerprint)}/{TOKENIZER}"

    def lengths(self, step: str, fingerprint: str) -> str:
        """Length index of a target."""
        return f"{self.files(step, fingerprint)}/{LENGTHS}"

    def training(self, step: str, fingerprint: str) -> str:
        """Folder of a stage's checkpoints on S3: apart from its result, which the next stage copies."""
        return f"{self.corpus}/training/{step}/{fingerprint}"

    @property
    def all_staging(self) -> str:
        """Folder of the staged shards of all steps."""
        return self.folder(STAGING)

    def staging(self, step: str, fingerprint: str) -> str:
        """Folder of a step's staged shards."""
        return f"{self.all_staging}/{step}/{fingerprint}"

    def staged_step(self, name: str) -> tuple[str, str]:
        """Step and fingerprint of a folder of :meth:`staging`, or its file."""
        parts = name.removeprefix(f"{self.all_staging}/").split("/")
        end = next((n for n, part in enumerate(parts) if part in (SHARDS, DATA, RESULT)), len(parts))
        return "/".join(parts[: end - 1]), parts[end - 1]

    @property
    def takedowns(self) -> str:
        """Folder of the takedowns on record."""
        return f"{self.corpus}/takedowns"

    def takedown(self, number: int) -> str:
        return f"{self.takedowns}/{number:06d}.json"

    @property
    def settled(self) -> str:
        """Note of the versions that were found without what was taken down."""
        return f"{self.corpus}/settled.json"

    @property
    def leases(self) -> str:
        """Folder of the leases of those who work on the corpus."""
        return f"{self.corpus}/at-work"

    def lease(self, holder: str) -> str:
        return f"{self.leases}/{holder}.json"

    def retries(self, step: str, fingerprint: str) -> str:
        """Folder of the retries of a step."""
        return f"{self.corpus}/retries/{step}/{fingerprint}"

    def retry(self, step: str, fingerprint: str, number: int) -> str:
        return f"{self.retries(step, fingerprint)}/{number:06d}.json"

    def suite_page(self, name: str) -> str:
        """Page that compares checkpoints on a suite."""
        return f"{self.corpus}/suites/{name}.html"

    def table(self, name: str) -> str:
        """Folder of a table that has no place by the catalog."""
        return f"{self.corpus}/tables/{name}"

    def adopted(self, table: str, fingerprint: str, number: int) -> str:
        """Data file written for a table from files of others."""
        return f"{self.corpus}/adopted/{table}/{fingerprint}/{number:06d}.parquet"


# Names below a folder of staged shards.
SHARDS = "shards"
DATA = "data"
RESULT = "result.json"


def staged_shards(place: str) -> str:
    """Folder of the JSON files of published shards."""
    return f"{place}/{SHARDS}"


def staged_shard(place: str, shard_id: str) -> str:
    return f"{staged_shards(place)}/{shard_id}.json"


def staged_data(place: str, attempt: str, number: int) -> str:
    """Data file of an attempt at a shard."""
    return f"{place}/{DATA}/{attempt}-{number:05d}.parquet"


def staged_result(place: str) -> str:
    """List of the shards that are the step's result."""
    return f"{place}/{RESULT}"


def staging_of(shard: str) -> str:
    """Folder of staged shards of a published shard's JSON file."""
    return shard.rsplit("/", 2)[0]
