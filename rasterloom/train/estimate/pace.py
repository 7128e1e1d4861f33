"""Pace that a dry run assumes of GPUs, before anything is measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from rasterloom.recipe.train import Train
from rasterloom.train.estimate.flops import peak_flops

DEVICES = ("A100", "H100", "H200")

# Model FLOPs utilisation by GPU and activation checkpointing, of the peak in bf16: the operators of a step
# of the 7B were counted (target 512, 16,384 tokens of a rank) and priced by what each GPU is taken to reach
# in matrix products, attention and copies: benchmarks/bench_operators.py. A compiler is taken to fuse as much
# as the kernels do.
_EAGER: Mapping[str, Mapping[str, float]] = {
    "A100": {"none": 0.59, "selective": 0.51, "full": 0.45},
    "H100": {"none": 0.44, "selective": 0.38, "full": 0.34},
    "H200": {"none": 0.54, "selective": 0.46, "full": 0.41},
}
_FUSED: Mapping[str, Mapping[str, float]] = {
    "A100": {"none": 0.69, "selective": 0.60, "full": 0.53},
    "H100": {"none": 0.55, "selective": 0.48, "full": 0.42},
    "H200": {"none": 0.64, "selective": 0.56, "full": 0.49},
}
_FLOAT32_PEAKS = {"A100": 19.5e12, "H100": 67e12, "H200": 67e12}  # the maker's data sheets, without TF32
_FLOAT32_MFU = 0.7  # products are so slow there that little else counts

COUNTED, ASSUMED, GIVEN = "operators counted, not measured", "assumed", "given"
COUNTED_FUSED = "operators counted with fused kernels, not measured"


@dataclass(frozen=True)
class Pace:
    """Rate that a GPU is taken to reach."""

    peak: float
    """FLOP/s, in the precision of the stage."""
    mfu: float
    """Share of it that goes into the operations that the model needs."""
    source: str
    """Origin of the share."""

    def rate(self, flops: float) -> float:
        """Times a second that a GPU does so many FLOPs."""
        return self.peak * self.mfu / flops

    def hours(self, flops: float) -> float:
        """Hours of one GPU."""
        return flops / (self.peak * self.mfu) / 3600


def paces(train: Train, mfu: float | None = None) -> dict[str, Pace]:
    """Pace of each GPU for a stage, by its name.

    Args:
        train: where its precision is not settled, it is that of a GPU.
        mfu: share to assume; None: by GPU and activation checkpointing.
    """
    half = train.deepspeed.bf16 is not False and train.deepspeed.zero > 0
    eager = train.model.operators == "eager"
    table, source = (_EAGER, COUNTED) if eager else (_FUSED, COUNTED_FUSED)
    found = {}
    for device in DEVICES:
        peak = peak_flops(device) if half else _FLOAT32_PEAKS[device]
        assert peak is not None
        if mfu is not None:
            found[device] = Pace(peak, mfu, GIVEN)
        elif half:
            found[device] = Pace(peak, table[device][train.model.recomputed], source)
        else:
            found[device] = Pace(peak, _FLOAT32_MFU, ASSUMED)
    return found
