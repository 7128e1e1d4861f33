"""Speculative Jacobi decoding: several codes of an image in one pass of the model.

The rule is that of Teng et al. 2024 (arXiv 2410.01699). A pass computes the distributions of a window of
codes, given drafts for those before them. From the left, a draft x that was drawn from q is accepted with
probability min(1, p(x) / q(x)). The first that is not accepted is drawn from what p has more than q, and is
final, too. All later ones are drawn anew from this pass's p, as drafts of the next. So a code has the
distribution that it has when codes are drawn one by one, and each pass makes one code final at least.

A place that comes into the window begins with a guess, the code before it: a draft whose q is 1 there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from rasterloom.train.sampling.decoder import Decoder

Probabilities = NDArray[np.float64]


@dataclass
class Window:
    """Codes of one image: final ones, then drafts.

    Attributes:
        script: tokens of the image, int64 [n]; -1 for a code that is to be drawn.
        codes: at the places of codes, [n].
        at: number of places that are final.
        drawn_from: probabilities [codes] that a draft was drawn from, by place; None for a guess.
    """

    script: NDArray[np.int64]
    generator: Generator
    codes: NDArray[np.int64] = field(init=False)
    at: int = 0
    drawn_from: dict[int, Probabilities | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.codes = np.zeros(len(self.script), np.int64)

    def is_code(self, place: int) -> bool:
        return bool(self.script[place] < 0)

    def settle(self, p: Probabilities) -> int:
        """Make codes final, and draw new drafts for those behind them.

        Args:
            p: probabilities [m, codes] of the places from ``at`` on, given the drafts before each.

        Returns:
            Number of places that became final, at least 1.
        """
        accepted = 0
        for place, mine in enumerate(p, self.at):
            accepted += 1
            if self.is_code(place) and not self._accepts(place, mine):
                break
        for place, mine in enumerate(p[accepted:], self.at + accepted):
            if self.is_code(place):
                self.codes[place], self.drawn_from[place] = self._draw(mine), mine
        self.at += accepted
        return accepted

    def _accepts(self, place: int, p: Probabilities) -> bool:
        """Make a code final. False: it is another than its draft, so that those behind it must wait."""
        if place not in self.drawn_from:
            self.codes[place] = self._draw(p)
            return False
        draft, q = self.codes[place], self.drawn_from.pop(place)
        if q is None:
            q = np.zeros_like(p)
            q[draft] = 1
        if self.generator.random() * q[draft] < p[draft]:
            return True
        self.codes[place] = self._draw(np.maximum(p - q, 0))
        return False

    def _draw(self, mass: Probabilities) -> int:
        """Draw a code of a mass that need not sum to 1."""
        total = mass.cumsum()
        return min(
            int(np.searchsorted(total, self.generator.random() * total[-1], side="right")), len(mass) - 1
        )

    def guess(self, end: int) -> None:
        """Give each code before a place a draft."""
        for place in range(self.at, end):
            if self.is_code(place) and place not in self.drawn_from:
                before = [one for one in (place - 1, place - 2) if one >= 0 and self.is_code(one)]
                self.codes[place] = self.codes[before[0]] if before else 0
                self.drawn_from[place] = None


def draw(
    decoder: Decoder,
    contexts: list[list[int]],
    window: Window,
    image_ids: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    *,
    width: int,
    pad: int,
) -> int:
    """Draw an image into a window's codes; return the number of passes.

    Args:
        decoder: with a row for each context.
        contexts: with the prompt, and without it if there is guidance.
        image_ids: ids of the codes.
        probabilities: of hidden states [rows, m, d], those of m codes [m, codes] float64.
        width: tokens of a pass, at most.
        pad: token that fills up shorter contexts.
    """
    ids = image_ids.cpu().numpy()
    places, passes = len(window.script), 1
    p = probabilities(decoder.start(contexts, pad)[:, None])
    while True:
        accepted = window.settle(p.cpu().numpy())
        if window.at == places:
            return passes
        if passes > 1:
            decoder.forget(len(p) - accepted)
        # The last final token has not been fed, or another was in its place.
        start, end = window.at - 1, min(window.at - 1 + width, places - 1)
        window.guess(end)
        tokens = np.where(window.script < 0, ids[window.codes], window.script)[start:end]
        given = torch.from_numpy(tokens).to(image_ids.device)
        p = probabilities(decoder.feed_all(given[None].repeat(len(contexts), 1)))
        passes += 1
