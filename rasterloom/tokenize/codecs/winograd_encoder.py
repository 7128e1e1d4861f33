"""VQGAN encoder for the CPU with Winograd convolutions, in fp32.

Nearly all its work is convolutions of 3 x 3 pixels, which plain kernels do as fast as a CPU multiplies. By
Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin and Gray, arXiv 1509.09308) 16 pixels of output take 36
multiplications a pair of channels instead of 144. Group norm and SiLU go before each convolution, a sum and
sums for the next norm after it, on a block of rows at a time that stays in the cache.

The sums are rounded otherwise than in a plain convolution, by some 1e-5 of their size; docs/codecs.md says
how many codes that turns.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILES = 64  # of 4 x 4 pixels in a block: its buffers fit a core's cache
LARGEST = 512 * 512  # filters of a convolution, which take four times the memory: of more it would be a GB

# The transform of filters, [6, 3]; those of pixels and of sums are spelt out in `_spread` and `_gather`.
_FILTERS = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)


class Buffers:
    """Memory that is used again: fresh pages from the system cost a quarter of the time."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    def get(self, name: str, *shape: int) -> Tensor:
        """Return the buffer of a name as float32 of a shape. It holds what was last put there."""
        size = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or len(flat) < size:
            flat = self._flat[name] = torch.empty(size)
        return flat[:size].view(shape)


@dataclass
class Map:
    """Activations float32 [h, w, c], with float64 [2, c] sums for group norms."""

    values: Tensor
    sums: Tensor

    @classmethod
    def of(cls, values: Tensor) -> "Map":
        values = values.contiguous()
        sums = torch.zeros(2, values.shape[2], dtype=torch.float64)
        for rows in torch.split(values, 8):
            sums += _sums(rows)
        return cls(values, sums)


def _sums(values: Tensor) -> Tensor:
    flat = values.reshape(-1, values.shape[-1])
    return torch.stack([flat.sum(0), (flat * flat).sum(0)]).double()


class Plain:
    """Group norm, SiLU and a convolution, one after the other."""

    def __init__(self, norm: nn.GroupNorm, conv: nn.Conv2d) -> None:
        self.norm, self.conv = norm, conv

    def __call__(self, x: Map, into: str, plus: Tensor | None = None) -> Map:
        """As `Winograd`, but for the buffer, which is not used."""
        found = self.conv(F.silu(self.norm(x.values.permute(2, 0, 1)[None]), inplace=True))[0].permute(
            1, 2, 0
        )
        return Map.of(found if plus is None else found + plus)


class Winograd:
    """Group norm, SiLU and 3 x 3 convolution on any map."""

    def __init__(self, norm: nn.GroupNorm, conv: nn.Conv2d, buffers: Buffers) -> None:
        assert conv.bias is not None
        self.norm, self.bias, self.buffers = norm, conv.bias, buffers
        filters = torch.einsum("ia,kcab,jb->ijck", _FILTERS, conv.weight.double(), _FILTERS)
        self.filters = filters.reshape(36, conv.in_channels, conv.out_channels).float().contiguous()

    def __call__(self, x: Map, into: str, plus: Tensor | None = None) -> Map:
        """Return the convolution [h, w, k] in ``into``, plus ``plus`` [h, w, k]."""
        h, w, c = x.values.shape
        k = self.filters.shape[2]
        rows, across = -(-h // 4), -(-w // 4)  # of tiles
        n = max(1, min(rows, TILES // across))
        get = self.buffers.get
        block = get("block", 4 * n + 2, 4 * across + 2, c)  # a margin of one pixel, zero outside of the map
        by_rows, by_both = get("rows", 6, n, 4 * across + 2, c), get("both", 6, 6, n, across, c)
        product, half = get("product", 36, n * across, k), get("half", 4, 6, n, across, k)
        done = get("done", 4 * n, 4 * across, k)
        spare_rows = list(get("spare rows", 2, *by_rows.shape[1:]))
        spare_both = list(get("spare both", 2, 6, n, across, c))
        spare_product = list(get("spare product", 4, 6, n, across, k))
        spare_half = list(get("spare half", 4, 4, n, across, k))
        columns = [by_rows[:, :, i : i + 4 * across - 3 : 4] for i in range(6)]
        tiles = done.view(n, 4, across, 4, k)
        out = [tiles[:, :, :, j].transpose(0, 1) for j in range(4)]
        scale, shift = self._affine(x)
        result, sums = get(into, h, w, k), torch.zeros(2, k, dtype=torch.float64)
        block[:, 0].zero_()
        block[:, w + 1 :].zero_()
        for top in range(0, h, 4 * n):
            first, last = max(0, top - 1), min(h, top + 4 * n + 1)
            inside = block[first - top + 1 : last - top + 1, 1 : w + 1]
            torch.addcmul(shift, x.values[first:last], scale, out=inside)
            F.silu(inside, inplace=True)
            block[: first - top + 1].zero_()
            block[last - top + 1 :].zero_()
            _spread([block[i : i + 4 * n - 3 : 4] for i in range(6)], list(by_rows), spare_rows)
            _spread(columns, [by_both[:, j] for j in range(6)], spare_both)
            torch.bmm(by_both.view(36, n * across, c), self.filters, out=product)
            product[7].add_(self.bias)  # the place whose value goes to all 16 pixels
            _gather(list(product.view(6, 6, n, across, k)), list(half), spare_product)
            _gather([half[:, j] for j in range(6)], out, spare_half)
            part, place = done[: min(4 * n, h - top), :w], result[top : top + 4 * n]
            if plus is None:
                place.copy_(part)
            else:
                torch.add(part, plus[top : top + 4 * n], out=place)
            sums += _sums(place)
        return Map(result, sums)

    def _affine(self, x: Map) -> tuple[Tensor, Tensor]:
        """Scale and shift [c] that are the group norm of this map."""
        h, w, c = x.values.shape
        groups = self.norm.num_groups
        mean, square = (x.sums.view(2, groups, -1).mean(2) / (h * w)).repeat_interleave(c // groups, 1)
        scale = self.norm.weight / torch.sqrt(square - mean**2 + self.norm.eps)
        return scale.float(), (self.norm.bias - mean * scale).float()


def _spread(pixels: list[Tensor], out: list[Tensor], spare: list[Tensor]) -> None:
    """Six neighbouring pixels to six sums, along a tile's side."""
    p0, p1, p2, p3, p4, p5 = pixels
    a, b = spare
    torch.add(p4, p0, alpha=4, out=out[0]).sub_(p2, alpha=5)
    torch.sub(p4, p2, alpha=4, out=a)
    torch.sub(p3, p1, alpha=4, out=b)
    torch.add(a, b, out=out[1])
    torch.sub(a, b, out=out[2])
    torch.sub(p4, p2, out=a)
    torch.sub(p3, p1, out=b)
    torch.add(a, b, alpha=2, out=out[3])
    torch.sub(a, b, alpha=2, out=out[4])
    torch.add(p5, p1, alpha=4, out=out[5]).sub_(p3, alpha=5)


def _gather(products: list[Tensor], out: list[Tensor], spare: list[Tensor]) -> None:
    """Six products to four output pixels, along a tile's side."""
    p0, p1, p2, p3, p4, p5 = products
    a, b, c, d = spare
    torch.add(p1, p2, out=a)
    torch.sub(p1, p2, out=b)
    torch.add(p3, p4, out=c)
    torch.sub(p3, p4, out=d)
    torch.add(b, d, alpha=2, out=out[1])
    torch.add(a, c, alpha=4, out=out[2])
    torch.add(a.add_(p0), c, out=out[0])
    torch.add(b.add_(p5), d, alpha=8, out=out[3])


class WinogradEncoder:
    """Does what diffusers' ``Encoder`` does, for one image at a time: float [1, 3, h, w] in fp32."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        buffers = Buffers()
        resnets = [r for block in (*encoder.down_blocks, encoder.mid_block) for r in block.resnets]

        def of(norm: nn.GroupNorm, conv: nn.Conv2d) -> Winograd | Plain:
            if conv.in_channels * conv.out_channels > LARGEST:
                return Plain(norm, conv)
            return Winograd(norm, conv, buffers)

        self._convs = {id(r): (of(r.norm1, r.conv1), of(r.norm2, r.conv2)) for r in resnets}
        self._last = of(encoder.conv_norm_out, encoder.conv_out)

    def __call__(self, pixels: Tensor) -> Tensor:
        x = self._plain(self.encoder.conv_in, pixels[0].permute(1, 2, 0))
        for block in self.encoder.down_blocks:
            attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
            for resnet, attention in zip(block.resnets, attentions, strict=True):
                x = self._resnet(resnet, x)
                x = self._plain(attention, x.values) if attention else x
            for downsampler in block.downsamplers or ():
                x = self._plain(downsampler, x.values)
        middle = self.encoder.mid_block
        x = self._resnet(middle.resnets[0], x)
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            x = self._resnet(resnet, self._plain(attention, x.values) if attention else x)
        # Of a buffer: what becomes of it must be used before the next call.
        return self._last(x, "first").values.permute(2, 0, 1)[None]

    def _plain(self, module: Any, values: Tensor) -> Map:
        return Map.of(module(values.permute(2, 0, 1)[None])[0].permute(1, 2, 0))

    def _resnet(self, resnet: Any, x: Map) -> Map:
        first, second = self._convs[id(resnet)]
        through = x.values
        if resnet.conv_shortcut is not None:
            shortcut = resnet.conv_shortcut
            through = F.linear(through, shortcut.weight[:, :, 0, 0], shortcut.bias)
        # The buffer "second" may hold x itself: each place of it is read before it is written.
        return second(first(x, "first"), "second", plus=through)
