"""Decoder with a key-value cache that never moves.

A step's shapes depend on the number of its tokens and on how many keys attention runs over, never on the
position, which is a tensor: it is the same sequence of kernels at all positions. On a GPU these are captured
as a CUDA graph and replayed, since launching them one by one takes longer than they do. Attention runs over
the keys so far, rounded up to a multiple of `GRAIN`: later ones are masked.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from rasterloom.errors import one_line

GRAIN = 256  # keys by which attention grows on a GPU, for each of which a step is captured
CAPTURED = 2  # tokens of a step, at most: a code, and the end of a line

Step = Callable[[], None]

logger = logging.getLogger(__name__)


class Decoder:
    """Feeds contexts to a model, then a few tokens a time.

    Attributes:
        hidden: last hidden states, [rows, d], of which each step writes new ones.
    """

    def __init__(self, model: Any, rows: int, room: int, replays: "Replays | None" = None) -> None:
        """Allocate the cache.

        Args:
            model: of transformers; its attention must be transformers' own.
            room: tokens of a row, contexts and all steps.
            replays: of this decoder's steps; None computes each as it comes.
        """
        weight = model.lm_head.weight
        self.model, self.rows, self.room, self.replays = model, rows, room, replays
        self.grain = 1 if replays is None else GRAIN
        self.fed = 0
        device = weight.device
        self.hidden = torch.zeros(rows, model.config.hidden_size, dtype=weight.dtype, device=device)
        self._cache = _Cache(room)
        self._length = torch.zeros(1, dtype=torch.int64, device=device)
        self._missing = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self._tokens = torch.zeros(rows, CAPTURED, dtype=torch.int64, device=device)

    def start(self, contexts: Sequence[Sequence[int]], pad: int) -> Tensor:
        """Feed a context for each row of a new batch; return `hidden`."""
        longest = max(map(len, contexts))
        missing = torch.tensor([longest - len(context) for context in contexts])
        self._missing.copy_(missing[:, None])  # padding on the left of each row
        self._length.zero_()
        self.fed = longest
        ids = torch.tensor([[pad] * (longest - len(c)) + list(c) for c in contexts])
        self._step(ids.to(self.hidden.device), longest)
        return self.hidden

    def feed(self, tokens: Tensor) -> Tensor:
        """Feed tokens, [rows, n]; return `hidden`."""
        count = tokens.shape[1]
        self.fed += count
        keys = min(-(-self.fed // self.grain) * self.grain, self.room)
        if self.replays is None or count > CAPTURED:
            self._step(tokens, keys)
        else:
            given = self._tokens[:, :count]
            given.copy_(tokens)
            self.replays.run((count, keys), lambda: self._step(given, keys))
        return self.hidden

    def feed_all(self, tokens: Tensor) -> Tensor:
        """Feed tokens, [rows, n]; return the hidden states of all, [rows, n, d]."""
        self.fed += tokens.shape[1]
        return self._compute(tokens, self.fed)

    def forget(self, count: int) -> None:
        """Take the last tokens back."""
        self.fed -= count
        self._length.sub_(count)

    def _step(self, tokens: Tensor, keys: int) -> None:
        """Compute `hidden` of tokens.

        It is captured: nothing in it waits for the device, or depends on values.
        """
        self.hidden.copy_(self._compute(tokens, keys)[:, -1])

    def _compute(self, tokens: Tensor, keys: int) -> Tensor:
        """Hidden states of tokens [rows, n], with attention over so many keys: [rows, n, d]."""
        at = self._length + torch.arange(tokens.shape[1], device=tokens.device)
        key = torch.arange(keys, device=tokens.device)
        seen = (key <= at[:, None]) & ((key >= self._missing[:, :, None]) | (key == at[:, None]))
        self._cache.at, self._cache.keys = at, keys
        found = self.model.model(
            input_ids=tokens,
            position_ids=(at - self._missing).clamp_min(0),
            attention_mask=seen[:, None],  # [rows, 1, n, keys]; a row of padding sees itself
            past_key_values=self._cache,
            use_cache=True,
        )
        self._length.add_(tokens.shape[1])
        hidden: Tensor = found.last_hidden_state
        return hidden


class _Cache:
    """Keys and values of all layers, allocated once.

    transformers' own either copies keys and values at every token or lets attention run over the room that is
    still empty.
    """

    at: Tensor
    """Places of a step's tokens, [n] int64."""
    keys: int
    """Number of keys that its attention runs over."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Add keys and values [rows, heads, n, width]; return those to attend to."""
        if layer not in self.layers:
            rows, heads, _, width = key.shape
            # Zeros: what is masked is multiplied by nothing, which must not be infinite.
            empty = key.new_zeros(2, rows, heads, self.room, width)
            self.layers[layer] = (empty[0], empty[1])
        keys, values = self.layers[layer]
        keys.index_copy_(2, self.at, key)
        values.index_copy_(2, self.at, value)
        return keys[:, :, : self.keys], values[:, :, : self.keys]


class Replays:
    """Steps that are captured once and then replayed.

    That is when they come for the second time. The first time a step is computed as it is, which sets up what
    libraries set up when they are first used.
    """

    def __init__(self, capture: Callable[[Step], Step]) -> None:
        """Begin with none.

        Args:
            capture: returns a replay of a step, without taking it.
        """
        self._capture: Callable[[Step], Step] | None = capture
        self._replays: dict[Hashable, Step | None] = {}

    def run(self, key: Hashable, step: Step) -> None:
        """Take a step.

        Args:
            key: all that its kernels depend on.
        """
        if key not in self._replays:
            self._replays[key] = None
            step()
            return
        replay = self._replays[key]
        if replay is None and self._capture is not None:
            try:
                replay = self._replays[key] = self._capture(step)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._capture = None
                logger.warning("steps are not replayed, which is slower: %s", one_line(error))
        (replay or step)()


class CudaGraphs:
    """Capture of steps as CUDA graphs, which share their memory: one runs after the other."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            step()
        return graph.replay
