"""`run.price`: what a run costs, as far as its workers tell."""

from pydantic import Field

from rasterloom.recipe.base import Section


class Price(Section):
    """Dollars an hour. What is charged is what a worker holds while it works: nodes that idle, storage and
    traffic are not in it."""

    cpu: float = Field(0.0, ge=0)
    """Of a CPU."""
    gpu: float = Field(0.0, ge=0)
    """Of a GPU."""

    def usd(self, seconds: float, cpus: float, gpus: float) -> float:
        """The price of CPUs and GPUs that were held for some seconds."""
        return seconds / 3600 * (cpus * self.cpu + gpus * self.gpu)
