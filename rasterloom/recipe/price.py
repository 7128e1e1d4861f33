"""Section `run.price`: cost of a run."""

from pydantic import Field

from rasterloom.recipe.base import Section


class Price(Section):
    """Prices in dollars an hour. Only the CPUs and GPUs of working workers count, not idle nodes, storage or
    traffic."""

    cpu: float = Field(0.0, ge=0)
    """Price of a CPU."""
    gpu: float = Field(0.0, ge=0)
    """Price of a GPU."""

    def usd(self, seconds: float, cpus: float, gpus: float) -> float:
        """Price of CPUs and GPUs for some seconds."""
        return seconds / 3600 * (cpus * self.cpu + gpus * self.gpu)
