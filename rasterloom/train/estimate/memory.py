"""Estimate of a worker's device and host memory, without torch.

The bytes are those that DeepSpeed 0.19 was seen to hold (tests/train/estimate/test_memory.py), when a step's
gradients are there and the optimizer has its moments. What the allocator and the network add is not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from rasterloom.recipe.model import Lora
from rasterloom.recipe.train import Train
from rasterloom.train.deepspeed_config import BUCKET_ELEMENTS, deepspeed_config
from rasterloom.train.model.freeze import frozen
from rasterloom.train.model.shapes import LOGITS_AT_ONCE, Shape, parameter_shapes

VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class Memory:
    """Bytes of a worker's memory."""

    states: float
    """On its device: weights, gradients and what the optimizer holds."""
    activations: float
    """What waits for the backward pass."""
    loss: float
    """Logits, and the gradient of the head."""
    buckets: float
    """What is on its way to other workers."""
    host: float
    """Beside the device: what is offloaded."""
    average: float
    """Beside the device: its share of the average of the weights."""
    params: int
    trained: int
    """Parameters that are trained, of these."""

    @property
    def total(self) -> float:
        """On the device."""
        return self.states + self.activations + self.loss + self.buckets


def memory(shape: Shape, train: Train, freeze: Sequence[str], workers: int, rank_tokens: int) -> Memory:
    """Estimate the memory of a worker.

    Bytes of a parameter, of which ZeRO 1 shards what the optimizer holds, 2 the gradients too, 3 the weights
    too (arXiv 1910.02054, section 3.1):

    - weight: 2 in bf16, 4 in float32, trained or not;
    - gradient, of trained ones: 4, summed in float32; ZeRO 1 keeps the one in bf16 beside it;
    - optimizer, of trained ones: AdamW's moments 8, Muon's one of a matrix 4; with ZeRO a float32 copy 4.

    Offloaded, the optimizer's part is beside the device, with a float32 gradient for its step and the sum
    of the gradients of earlier micro-batches.

    Args:
        freeze: patterns of what is not trained (`freeze.frozen`).
        rank_tokens: the most tokens that a worker computes at once.
    """
    config = deepspeed_config(train)["zero_optimization"]
    zero, half, lora = train.deepspeed.zero, train.deepspeed.bf16, train.model.lora
    sizes = {name: prod(dims) for name, dims in parameter_shapes(shape, lora).items()}
    trained = trained_parameters(shape, lora, freeze)
    params, learning = sum(sizes.values()), sum(sizes[name] for name in trained)
    width = 2 if half else 4
    weights: float = width * params
    gradients: float = (6 if half and zero == 1 else 4) * learning
    optimizer: float = 8 * learning + (4 * learning if zero else 0)
    if train.optimizer == "muon":
        optimizer -= 4 * sum(sizes[name] for name in trained if "_proj." in name)
    host = 0.0
    if _on_cpu(config, "offload_optimizer"):
        host += (optimizer + (4 + (4 if zero == 3 else width)) * learning) / workers
        optimizer, gradients = 0.0, 0.0 if zero == 3 else 4 * learning / workers
    else:
        optimizer /= workers if zero >= 1 else 1
        gradients /= workers if zero >= 2 else 1
    weights /= workers if zero == 3 else 1
    if _on_cpu(config, "offload_param"):
        host, weights = host + weights, 0.0
    bucket = min(int(config.get("reduce_bucket_size", BUCKET_ELEMENTS)), params)
    head = 4 * shape.head_params if "lm_head.weight" in trained else 0
    return Memory(
        states=weights + gradients + optimizer,
        activations=float(activations(shape, train, rank_tokens)),
        loss=float(4 * min(LOGITS_AT_ONCE, rank_tokens * shape.vocab) + head),
        buckets=float({2: width, 3: 4}.get(zero, 0) * bucket),
        host=host,
        average=4 * learning / workers if train.ema else 0.0,
        params=params,
        trained=learning,
    )


def trained_parameters(shape: Shape, lora: Lora | None, freeze: Sequence[str]) -> set[str]:
    """The names of the parameters that a stage trains. Raises ValueError, as `freeze.frozen`."""
    names = set(parameter_shapes(shape, lora))
    if lora is not None:
        adapters = {name for name in names if ".lora_" in name}
        names = adapters | (set(VOCABULARY) if lora.vocabulary else set())
    return names - frozen(parameter_shapes(shape, lora), freeze)


def activations(shape: Shape, train: Train, tokens: int) -> int:
    """Bytes kept for the backward pass, without dropout's masks.

    Of a layer, in units of the hidden width h, of keys k and of the MLP i, a token keeps 10 h + 4 k + 4 i
    (both norms' inputs and outputs, queries, keys and values before and after their norms and rotated,
    attention's output; gate, its activation, up, and their product), in bf16 2 h more, because norms are
    computed in float32; ``selective`` 5 h + 2 k; ``full`` h. What one layer computes again is added once.
    """
    width, keys, inner = shape.hidden, shape.kv_heads * shape.head_width, shape.intermediate
    half, remat = train.deepspeed.bf16, train.model.remat
    whole = (12 if half else 10) * width + 4 * keys + 4 * inner
    kept = {"none": whole, "selective": 5 * width + 2 * keys, "full": width}[remat]
    again = 0 if remat == "none" else whole - kept
    return (2 if half else 4) * tokens * (shape.layers * kept + again)


def _on_cpu(config: dict[str, dict[str, str]], what: str) -> bool:
    return (config.get(what) or {}).get("device") == "cpu"
