"""`run`: how fast, not what."""

from pydantic import Field

from rasterloom.recipe.section import Section


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
