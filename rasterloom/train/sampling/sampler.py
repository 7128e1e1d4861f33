"""Sampler of image codes and text answers from a trained model.

Guidance, top-k and temperature are those of Lumina-mGPT, in its order: logits = s * (l - l0) + l0, where l0
sees only boi and the size; then the image codes alone; then their top k; then temperature. Unlike there the
tokens of the size are given, not sampled, and rows end where they must, so every sequence is a whole image
of the size asked for.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from rasterloom.schema import Profile
from rasterloom.train.model.packed_lm import build_model
from rasterloom.train.sampling.decoder import CudaGraphs, Decoder, Replays, Step
from rasterloom.train.sampling.speculative import Window, draw
from rasterloom.utils.oom_batches import FittingBatches
from rasterloom.utils.parallel import Advance, adding, silent
from rasterloom.utils.random_streams import stream_generator

Codes = NDArray[np.int32]
Decoders = dict[tuple[int, int], Decoder]
"""The last decoder of a call, by its rows and room."""

ROOM = 64  # tokens by which a captured decoder's room grows, so that batches of much the same length share it
LOOKS = 16  # captured steps of a text between looks at whether all rows have ended
FREE = 0.8  # of a GPU's free memory that the cache of keys and values may take


class Sampler:
    """A model ready to draw and to answer from.

    Attributes:
        batch: images drawn, or prompts answered, at once; fewer where a GPU's memory does not hold them. It
            changes no result.
        window: tokens of a pass. From 2 on, images are drawn by `speculative`, one at a time and in fewer
            passes: other images than those of 1, of the same distribution.
        first: number of the first image of a call, for a part of many.
        passes: of the model for images so far, each over a batch or a window.
        capture: makes what captures a decoder's steps, as `decoder.CudaGraphs`. None computes each as it
            comes, as models must whose weights move, in training.
    """

    def __init__(self, model: Any, profile: Profile, batch: int = 32) -> None:
        """Take a model of transformers, in evaluation mode. Its attention must be transformers' own."""
        self.model, self.profile, self.batch, self.first = model, profile, batch, 0
        self.window, self.passes = 1, 0
        self.capture: Callable[[], Callable[[Step], Step]] | None = None
        self.device: torch.device = model.lm_head.weight.device
        ids = profile.image_ids or range(profile.image0, profile.image0 + profile.codebook_size)
        self.image_ids = torch.tensor(ids, device=self.device)
        self._batches = FittingBatches("sequences")

    @torch.no_grad()
    def sample(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sizes: Sequence[tuple[int, int]],
        *,
        cfg: float = 4.0,
        temperature: float = 1.0,
        top_k: int = 2000,
        seed: int = 0,
        on_tokens: Advance = silent,
    ) -> list[Codes]:
        """Draw one image for each prompt.

        Args:
            prompt_ids: tokens of each prompt, from bos to the separator before boi; there may be images
                among them.
            sizes: (width, height) of each image in pixels, multiples of ``profile.grid_unit``.
            cfg: guidance scale; 1 is no guidance.
            seed: image i depends on ``seed`` and ``first`` + i, and not on the other images.
            on_tokens: called with the number of codes generated, and of all, now and then.

        Returns:
            Codes [h, w] of each image.

        Raises:
            ValueError: a size is not a multiple of the grid unit, or the numbers of prompts and sizes differ.
        """
        if len(prompt_ids) != len(sizes):
            raise ValueError(f"{len(prompt_ids)} prompts, but {len(sizes)} sizes")
        heads = [_head(size, self.profile) for size in sizes]
        order = sorted(range(len(sizes)), key=lambda i: (sizes[i][0] * sizes[i][1], sizes[i], i))
        add = adding(on_tokens, sum(w * h for w, h in sizes) // self.profile.downsample**2)
        pick = partial(self._pick, cfg=cfg, temperature=temperature, top_k=top_k)
        likely = partial(self._probabilities, cfg=cfg, temperature=temperature, top_k=top_k)
        decoders: Decoders = {}

        def draw_part(part: Sequence[int]) -> list[Codes]:
            contexts = [[*prompt_ids[i], *heads[i]] for i in part]
            if cfg != 1:
                contexts += [heads[i] for i in part]
            grids = [
                (sizes[i][1] // self.profile.downsample, sizes[i][0] // self.profile.downsample) for i in part
            ]
            if self.window > 1:
                stream = stream_generator("sample", seed=seed, number=self.first + part[0])
                return [self._draw_one(decoders, contexts, grids[0], stream, likely, add)]
            uniforms = [
                stream_generator("sample", seed=seed, number=self.first + i).random(h * w)
                for i, (h, w) in zip(part, grids, strict=True)
            ]
            return self._draw(decoders, contexts, grids, uniforms, pick, add)

        longest = max((self._tokens(prompt_ids[i], sizes[i]) for i in order), default=0)
        rows = 1 if cfg == 1 else 2
        most = self._room(longest * rows) if self.window == 1 else 1
        parts = self._batches.over(draw_part, order, most, like=(longest, rows))
        images = dict(zip(order, (image for part in parts for image in part), strict=True))
        return [images[i] for i in range(len(sizes))]

    def _tokens(self, prompt: Sequence[int], size: tuple[int, int]) -> int:
        """Tokens of an image's sequence, at most."""
        width, height = (side // self.profile.downsample for side in size)
        return len(prompt) + 3 + height * (width + 1)

    def _room(self, tokens: int) -> int:
        """Number of items that a GPU's free memory holds, at most ``batch``.

        Args:
            tokens: of an item in the cache.
        """
        if self.device.type != "cuda" or not tokens:
            return self.batch
        free, _ = torch.cuda.mem_get_info(self.device)
        free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        each = tokens * cache_bytes(self.model.config, self.model.lm_head.weight.element_size())
        return max(1, min(self.batch, int(FREE * free / each)))

    def _decoder(self, decoders: Decoders, rows: int, room: int) -> Decoder:
        """Take the last decoder, whose steps are captured, or make another."""
        key = (rows, room if self.capture is None else -(-room // ROOM) * ROOM)
        if key not in decoders:
            decoders.clear()  # its cache would take a GPU's memory
            replays = None if self.capture is None else Replays(self.capture())
            decoders[key] = Decoder(self.model, *key, replays)
        return decoders[key]

    def _pick(self, hidden: Tensor, chances: Tensor, *, cfg: float, temperature: float, top_k: int) -> Tensor:
        """Pick a code of each image, [images] int64."""
        logits = self._logits(hidden, self.image_ids)
        if cfg != 1:
            with_prompt, without = logits.chunk(2)
            logits = cfg * (with_prompt - without) + without
        return _choose(logits, chances, temperature, top_k)

    def _probabilities(self, hidden: Tensor, *, cfg: float, temperature: float, top_k: int) -> Tensor:
        """Probabilities of the next codes: of hidden states [1 or 2, n, d], [n, codes] float64."""
        logits = self._logits(hidden, self.image_ids)
        logits = logits[0] if cfg == 1 else cfg * (logits[0] - logits[1]) + logits[1]
        return _softmax(logits, temperature, top_k)

    def _draw_one(
        self,
        decoders: Decoders,
        contexts: list[list[int]],
        grid: tuple[int, int],
        stream: Generator,
        likely: Callable[[Tensor], Tensor],
        add: Callable[[int], None],
    ) -> Codes:
        """Draw one image by `speculative`."""
        window = Window(_script([grid], self.profile)[0], stream)
        room = max(map(len, contexts)) + len(window.script) + self.window
        decoder = self._decoder(decoders, len(contexts), room)
        self.passes += draw(
            decoder, contexts, window, self.image_ids, likely, width=self.window, pad=self.profile.pad
        )
        add(grid[0] * grid[1])
        return window.codes[window.script < 0].astype(np.int32).reshape(grid)

    def _draw(
        self,
        decoders: Decoders,
        contexts: list[list[int]],
        grids: list[tuple[int, int]],
        uniforms: list[NDArray[np.float64]],
        pick: Callable[[Tensor, Tensor], Tensor],
        add: Callable[[int], None],
    ) -> list[Codes]:
        """Draw a batch: ``contexts`` with the prompts, then those without, if there is guidance."""
        profile, device = self.profile, self.device
        script = _script(grids, profile)
        free = script < 0
        chances = np.zeros(script.shape)
        for row, (mine, chance) in enumerate(zip(free, uniforms, strict=True)):
            chances[row, mine] = chance
        steps = script.shape[1]
        decoder = self._decoder(decoders, len(contexts), max(map(len, contexts)) + steps)
        hidden, at = decoder.start(contexts, profile.pad), 0
        codes = torch.zeros(script.shape, dtype=torch.int64, device=device)
        forced, chances_at = torch.from_numpy(script).to(device), torch.from_numpy(chances).to(device)
        while True:
            self.passes += 1
            codes[:, at] = pick(hidden, chances_at[:, at])
            add(int(free[:, at].sum()))
            # What is known of all rows, as the end of a line where they are of one width, goes in along.
            end = at + 1
            while end < steps and not free[:, end].any():
                end += 1
            if end == steps:
                break
            tokens = forced[:, at:end].clone()
            tokens[:, 0] = torch.where(tokens[:, 0] < 0, self.image_ids[codes[:, at]], tokens[:, 0])
            hidden = decoder.feed(tokens.repeat(len(contexts) // len(grids), 1))
            at = end
        drawn = codes.cpu().numpy().astype(np.int32)
        return [
            drawn[row, mine].reshape(grid) for row, (mine, grid) in enumerate(zip(free, grids, strict=True))
        ]

    @torch.no_grad()
    def answer(
        self,
        prompt_ids: Sequence[Sequence[int]],
        text_ids: Sequence[int],
        *,
        temperature: float = 1.0,
        top_k: int = 10,
        seed: int = 0,
        max_tokens: int = 512,
        on_tokens: Advance = silent,
    ) -> list[list[int]]:
        """Answer each prompt in text, until the model ends its turn.

        Args:
            prompt_ids: tokens of each prompt, from bos to the separator before the answer.
            text_ids: ids that text is made of; no other is drawn, but for the separator that ends it.
            seed: answer i depends on ``seed`` and i, and not on the others.
            max_tokens: where an answer is cut off.

        Returns:
            Ids of each answer, without the separator.
        """
        allowed = torch.tensor([*text_ids, self.profile.sep], device=self.device)
        sep, add = self.profile.sep, adding(on_tokens)
        looks = 1 if self.capture is None else LOOKS  # each makes the CPU wait for the GPU
        decoders: Decoders = {}

        def answer(numbers: Sequence[int]) -> list[list[int]]:
            part = [list(prompt_ids[i]) for i in numbers]
            uniforms = [stream_generator("sample", seed=seed, number=i).random(max_tokens) for i in numbers]
            chances = torch.from_numpy(np.stack(uniforms)).to(self.device)
            decoder = self._decoder(decoders, len(part), max(map(len, part)) + max_tokens)
            hidden = decoder.start(part, self.profile.pad)
            ended = torch.zeros(len(part), dtype=torch.bool, device=self.device)
            tokens: list[Tensor] = []
            for at in range(max_tokens):
                logits = self._logits(hidden, allowed)
                chosen = allowed[_choose(logits, chances[:, at], temperature, top_k)]
                tokens.append(torch.where(ended, sep, chosen))
                ended = ended | (chosen == sep)
                add(len(part))
                if at + 1 == max_tokens or (at % looks == 0 and bool(ended.all())):
                    break
                hidden = decoder.feed(tokens[-1][:, None])
            rows = torch.stack(tokens, dim=1).tolist()
            return [row[: row.index(sep)] if sep in row else row for row in rows]

        longest = max(map(len, prompt_ids), default=0) + max_tokens
        numbers = range(len(prompt_ids))
        parts = self._batches.over(answer, numbers, self._room(longest), like=(longest, 1))
        return [found for part in parts for found in part]

    def _logits(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Logits of some ids, [..., ids] float32."""
        logits: Tensor = self.model.lm_head(hidden)[..., ids]
        return logits.float()


def open_sampler(folder: str | Path, profile: Profile, device: str = "cpu", *, bf16: bool = False) -> Sampler:
    """Load a checkpoint to draw from.

    Raises:
        ValueError: there is no checkpoint in the folder, or it does not fit the profile.
    """
    model = build_model(str(folder), profile)
    if bf16:
        for parameter in model.parameters():  # not the rotary frequencies, which training has in float32
            parameter.data = parameter.data.to(device, torch.bfloat16)
    sampler = Sampler(model.to(device).eval(), profile)
    if sampler.device.type == "cuda":
        sampler.capture = CudaGraphs
    return sampler


def cache_bytes(config: Any, width: int) -> int:
    """Bytes of a token in the cache of all layers.

    Args:
        width: bytes of a number.
    """
    heads: int = config.num_key_value_heads or config.num_attention_heads
    head_width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers: int = config.num_hidden_layers
    return 2 * width * layers * heads * head_width


def _head(size: tuple[int, int], profile: Profile) -> list[int]:
    """Head of an image's tokens: boi, height, width.

    It is all that guidance samples without.
    """
    width, height = size
    if width % profile.grid_unit or height % profile.grid_unit or width < 1 or height < 1:
        raise ValueError(f"size {width}x{height} is not a multiple of {profile.grid_unit} pixels")
    return [profile.boi, *(profile.grid0 + side // profile.grid_unit for side in (height, width))]


def _script(grids: Sequence[tuple[int, int]], profile: Profile) -> NDArray[np.int64]:
    """Template of images of (height, width) codes, int64 [images, tokens].

    -1 for a code that is to be drawn, eol after each row but the last, and padding after shorter images.
    """
    rows = [([-1] * width + [profile.eol]) * height for height, width in grids]
    longest = max(map(len, rows)) - 1
    return np.array([(row[:-1] + [profile.pad] * longest)[:longest] for row in rows], np.int64)


def _softmax(logits: Tensor, temperature: float, top_k: int) -> Tensor:
    """Probabilities [rows, codes] float64, of the top k alone."""
    if top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return (logits / temperature).double().softmax(dim=-1)


def _choose(logits: Tensor, uniforms: Tensor, temperature: float, top_k: int) -> Tensor:
    """Pick one code a row, [rows] int64, by inverse transform sampling."""
    mass = _softmax(logits, temperature, top_k).cumsum(dim=-1)
    wanted = uniforms[:, None] * mass[:, -1:]
    return torch.searchsorted(mass, wanted, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)
