"""Estimate of a worker's device and host memory, without torch.

The bytes are those that torch and DeepSpeed 0.19 were seen to hold (tests/train/estimate/test_memory.py), at
the fullest moment of a step. What the allocator and the network add is not in it: see `fit.usable`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from rasterloom.recipe.model import Lora
from rasterloom.recipe.train import Train
from rasterloom.train.deepspeed_config import BUCKET_ELEMENTS, deepspeed_config
from rasterloom.train.model.families import FAMILIES
from rasterloom.train.model.freeze import frozen
from rasterloom.train.model.shapes import EMBEDDING, HEAD, LOGITS_AT_ONCE, Shape, parameter_shapes

LIVE_ELEMENTS = 1_000_000_000  # of parameters that ZeRO 3 leaves gathered at most: DeepSpeed's default
CODE_PIXELS, PROMPT_TOKENS = 16, 256  # a side of a code, of codecs with the largest images; a long prompt


@dataclass(frozen=True)
class Memory:
    """Bytes of a worker's memory."""

    states: float
    """On its device: weights, gradients and what the optimizer holds."""
    late: float
    """Gradients, of these, that are not there before the backward pass: of a share computed at once."""
    layer: float
    """In the backward pass: activations of one layer, and gradients of what is computed in it."""
    activations: float
    """What waits for the backward pass."""
    loss: float
    """At the end of the forward pass: logits and what is computed of them, and the gradient of the head."""
    buckets: float
    """In the backward pass: gradients on their way to other workers, and that of the head twice; and the
    parameters that ZeRO 3 has gathered."""
    drawing: float
    """For previews, in place of all that a step needs: keys and values of an image."""
    host: float
    """Beside the device: what is offloaded."""
    average: float
    """Beside the device: its share of the average of the weights."""
    params: int
    trained: int
    """Parameters that are trained, of these."""

    @property
    def total(self) -> float:
        """On the device, at the fullest moment."""
        begins = self.activations + max(self.loss, self.buckets + self.layer) - self.late
        return self.states + max(begins, self.buckets + 2 * self.layer, self.drawing - self.late)


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
    of_all = deepspeed_config(train, use_gpu=True)
    config, sent = of_all["zero_optimization"], 2 if of_all["communication_data_type"] == "bf16" else 4
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
    head = shape.head_params if (EMBEDDING if shape.tied else HEAD) in trained else 0
    on_their_way = _buckets(config, zero, (width, sent), max(sizes.values()), params)
    accumulates = rank_tokens < train.stages[0].batch_tokens / workers
    return Memory(
        states=weights + gradients + optimizer,
        late=0.0 if accumulates else gradients,
        layer=float(width * rank_tokens * (_inner(train) * shape.intermediate + 4 * shape.hidden)),
        activations=float(activations(shape, train, rank_tokens)),
        loss=float(_loss(shape, width, head, rank_tokens)),
        buckets=float(on_their_way + (4 + width) * head),
        drawing=float(_drawing(shape, train, width)),
        host=host,
        average=4 * learning / workers if train.ema else 0.0,
        params=params,
        trained=learning,
    )


def _loss(shape: Shape, width: int, head: int, tokens: int) -> int:
    """Bytes at the end of the forward pass.

    Logits in float32, and beside them first what their log-sum takes, as many again, then their gradient in
    the precision of the weights and its product with the hidden states; the gradient of the head so far; and
    of each token its last hidden state and the gradient of that.
    """
    logits = min(LOGITS_AT_ONCE, tokens * shape.vocab)
    return (
        4 * logits + max(4 * logits, width * (logits + head)) + 4 * head + 2 * width * tokens * shape.hidden
    )


def _buckets(config: dict[str, Any], zero: int, widths: tuple[int, int], largest: int, params: int) -> int:
    """Bytes of gradients, and with ZeRO 3 of parameters, on their way.

    Args:
        widths: bytes of a weight, and of a gradient as it is sent.
        largest: elements of the largest parameter, which passes by the buckets.
    """
    width, sent = widths
    if not zero:
        return 0
    size = min(int(config.get("reduce_bucket_size", BUCKET_ELEMENTS)), params)
    staged = (width if zero == 2 else 4) * size
    if zero < 3:
        return staged * (2 if config.get("overlap_comm") else 1) + sent * max(size, largest)  # a copy to send
    live = int(config.get("stage3_max_live_parameters", LIVE_ELEMENTS))
    return staged + width * min(live, params)


def _drawing(shape: Shape, train: Train, width: int) -> int:
    """Bytes of the keys and values of one preview, with guidance."""
    if not train.sample_every:
        return 0
    side = max(part.target for part in train.stages[0].parts) // CODE_PIXELS
    tokens = side * (side + 1) + PROMPT_TOKENS
    return 2 * 2 * width * shape.layers * shape.keys * tokens


def trained_parameters(shape: Shape, lora: Lora | None, freeze: Sequence[str]) -> set[str]:
    """The names of the parameters that a stage trains. Raises ValueError, as `freeze.frozen`."""
    names = set(parameter_shapes(shape, lora))
    if lora is not None:
        adapters = {name for name in names if ".lora_" in name}
        names = adapters | (names & {EMBEDDING, HEAD} if lora.vocabulary else set())
    return names - frozen(parameter_shapes(shape, lora), freeze)


def activations(shape: Shape, train: Train, tokens: int) -> int:
    """Bytes kept for the backward pass, by what computes the layers.

    Of a layer, in units of the hidden width h, of queries q, keys k and of the MLP i, a token keeps with
    PyTorch's operators 6 h + 4 q + 4 k + 4 i (both norms' inputs and outputs, queries, keys and values before
    and after their norms and rotated, attention's output; gate, its activation, up, and their product), in
    bf16 2 h more, because norms are computed in float32, and q + k if those of queries and keys are;
    ``selective`` 3 h + 2 q + 2 k; ``full`` h. Without norms of queries and keys it is 2 q + 2 k less, as
    rotations keep nothing.

    Fused kernels and compiled layers compute what is cheap again, and keep 4 h + 3 q + 3 k + 3 i (q + k less
    without those norms); compiled, ``selective`` is h less. What one layer computes again is added once.
    Masks of dropout, twice a layer, are a byte an element; the compiler draws them again.
    """
    width, heads, inner = shape.hidden, shape.queries + shape.keys, shape.intermediate
    half, remat, operators = train.deepspeed.bf16, train.model.recomputed, train.model.operators
    norms = FAMILIES[shape.family].head_norms
    if operators == "eager":
        of_heads = {"none": 2, "each": 4}.get(norms, 5 if half else 4)
        whole = (8 if half else 6) * width + of_heads * heads + 4 * inner
    else:
        whole = 4 * width + (2 if norms == "none" else 3) * heads + 3 * inner
    some = (2 if operators == "compiled" else 3) * width + 2 * heads
    kept = {"none": whole, "selective": some, "full": width}[remat]
    again = 0 if remat == "none" else whole - kept
    masks = 2 * width if train.dropout and operators != "compiled" else 0
    of_masks = masks * tokens * (shape.layers if remat == "none" else 1)
    return (2 if half else 4) * tokens * (shape.layers * kept + again) + of_masks


def _inner(train: Train) -> int:
    """Widths of the MLP that its backward pass holds at once."""
    return 3 if train.model.operators == "kernels" else 4


def _on_cpu(config: dict[str, dict[str, str]], what: str) -> bool:
    return (config.get(what) or {}).get("device") == "cpu"
