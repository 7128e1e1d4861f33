"""Draws images, as codes, from a trained model: guided, in batches, and always of the size asked for.

Guidance, top-k and temperature are those of Lumina-mGPT: logits = s * (l - l0) + l0, where l0 sees only
boi and the size; then the top k of the image codes; then temperature. Unlike there the tokens of the size
are given, not sampled, and rows end where they must, so every sequence is a whole image.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from rasterloom.schema import Profile
from rasterloom.train.model import build_model

Codes = NDArray[np.int32]


class Sampler:
    """A model ready to draw from.

    Raises:
        ValueError: there is no checkpoint in the folder, or it does not fit the profile.
    """

    def __init__(self, model_dir: str | Path, profile: Profile, device: str = "cpu") -> None:
        self.profile = profile
        self.model = build_model(str(model_dir), profile).to(device).eval()
        ids = profile.image_ids or range(profile.image0, profile.image0 + profile.codebook_size)
        self.image_ids = torch.tensor(ids, device=device)

    def sample(
        self,
        prompt_ids: Sequence[Sequence[int]],
        sizes: Sequence[tuple[int, int]],
        *,
        cfg: float = 4.0,
        temperature: float = 1.0,
        top_k: int = 2000,
        seed: int = 0,
        batch: int = 32,
    ) -> list[Codes]:
        """Draw one image for each prompt.

        Args:
            prompt_ids: tokens of each prompt, from bos to the separator before boi.
            sizes: (width, height) of each image in pixels, multiples of ``profile.grid_unit``.
            cfg: guidance scale; 1 is no guidance.
            seed: image i depends on ``seed`` and i, and not on the other images.
            batch: images drawn at once.

        Returns:
            Codes [h, w] of each image.

        Raises:
            ValueError: a size is not a multiple of the grid unit, or the numbers of prompts and sizes differ.
        """
        if len(prompt_ids) != len(sizes):
            raise ValueError(f"{len(prompt_ids)} prompts, but {len(sizes)} sizes")
        of_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, size in enumerate(sizes):
            of_size[size].append(i)
        images: dict[int, Codes] = {}
        for size, members in of_size.items():
            for start in range(0, len(members), batch):
                part = members[start : start + batch]
                drawn = self._draw([prompt_ids[i] for i in part], size, part, cfg, temperature, top_k, seed)
                images.update(zip(part, drawn, strict=True))
        return [images[i] for i in range(len(prompt_ids))]

    @torch.inference_mode()
    def _draw(
        self,
        prompts: Sequence[Sequence[int]],
        size: tuple[int, int],
        numbers: Sequence[int],
        cfg: float,
        temperature: float,
        top_k: int,
        seed: int,
    ) -> list[Codes]:
        profile, device = self.profile, self.image_ids.device
        image = [profile.boi, *(profile.grid0 + units for units in _grid(size, profile))]
        contexts = [[*prompt, *image] for prompt in prompts]
        if cfg != 1:
            contexts += [image] * len(prompts)
        width, height = (side // profile.downsample for side in size)
        luck = np.stack([np.random.default_rng([seed, i]).random(width * height) for i in numbers])
        head = self.model.lm_head.weight[self.image_ids]
        decoder = _Decoder(self.model, contexts, room=height * (width + 1), pad=profile.pad, device=device)
        hidden, codes = decoder.start(), []
        for k in range(width * height):
            logits = linear(hidden, head).float()
            if cfg != 1:
                with_prompt, without = logits.chunk(2)
                logits = cfg * (with_prompt - without) + without
            codes.append(_choose(logits, torch.from_numpy(luck[:, k]).to(device), temperature, top_k))
            if k + 1 < width * height:
                tokens = self.image_ids[codes[-1]].repeat(1 if cfg == 1 else 2)[:, None]
                if (k + 1) % width == 0:  # the end of a row is known: it goes in with the row's last code
                    tokens = torch.cat([tokens, torch.full_like(tokens, profile.eol)], dim=1)
                hidden = decoder.feed(tokens)
        grid = torch.stack(codes, dim=1).view(-1, height, width)
        return list(grid.cpu().numpy().astype(np.int32))


class _Decoder:
    """Feeds a batch of contexts of different length, then a token or two at a time."""

    def __init__(
        self,
        model: Any,
        contexts: Sequence[Sequence[int]],
        *,
        room: int,
        pad: int,
        device: torch.device,
    ) -> None:
        longest = max(map(len, contexts))
        missing = torch.tensor([longest - len(context) for context in contexts], device=device)
        self.model = model
        self.ids = torch.tensor([[pad] * (longest - len(c)) + list(c) for c in contexts], device=device)
        self.missing = missing[:, None]  # padding on the left of each row
        self.cache = _Cache(longest + room)

    def start(self) -> Tensor:
        """Feed the contexts; return the last hidden states, [rows, d]."""
        return self.feed(self.ids)

    def feed(self, tokens: Tensor) -> Tensor:
        """Feed tokens, [rows, n]; return the last hidden states, [rows, d]."""
        begin, end = self.cache.length, self.cache.length + tokens.shape[1]
        at = torch.arange(begin, end, device=tokens.device)
        keys = torch.arange(end, device=tokens.device)
        seen = (keys <= at[:, None]) & ((keys >= self.missing[:, :, None]) | (keys == at[:, None]))
        hidden: Tensor = self.model.model(
            input_ids=tokens,
            position_ids=(at - self.missing).clamp_min(0),
            attention_mask=seen[:, None],  # [rows, 1, n, keys]; a row of padding sees itself
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        self.cache.length = end
        return hidden


class _Cache:
    """Keys and values of all layers, allocated once. transformers' own either copies them at every token
    or lets attention run over the room that is still empty."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.length = 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Add keys and values, [rows, heads, n, width]; return all so far."""
        if layer not in self.layers:
            rows, heads, _, width = key.shape
            empty = key.new_empty(2, rows, heads, self.room, width)
            self.layers[layer] = (empty[0], empty[1])
        end = self.length + key.shape[2]
        keys, values = self.layers[layer]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, layer: int = 0) -> int:
        return self.length


def _grid(size: tuple[int, int], profile: Profile) -> tuple[int, int]:
    """Height and width in grid units."""
    width, height = size
    if width % profile.grid_unit or height % profile.grid_unit or width < 1 or height < 1:
        raise ValueError(f"size {width}x{height} is not a multiple of {profile.grid_unit} pixels")
    return height // profile.grid_unit, width // profile.grid_unit


def _choose(logits: Tensor, luck: Tensor, temperature: float, top_k: int) -> Tensor:
    """Pick one code a row, [rows] int64, by the inverse of the cumulative distribution at ``luck``."""
    if top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    mass = (logits / temperature).double().softmax(dim=-1).cumsum(dim=-1)
    wanted = luck[:, None] * mass[:, -1:]
    return torch.searchsorted(mass, wanted, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)
