"""Judge protocol, and what judges are asked and answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # RGB [h, w, 3]
Features = NDArray[np.floating]  # [n, d]


@dataclass(frozen=True)
class Question:
    """Question to an image, and the answer that its prompt asks for."""

    text: str
    answer: str = "yes"
    skill: str = "question"
    needs: tuple[int, ...] = ()  # places of questions without which this one cannot hold


@dataclass(frozen=True)
class SuitePrompt:
    """One prompt of a suite, with questions if the suite has them."""

    name: str
    text: str
    category: str = ""
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Mark:
    """Score of one skill, or of one question of it."""

    skill: str
    score: float
    question: str = ""


@dataclass(frozen=True)
class Judgement:
    """Marks of one image, and its scores as a whole.

    Neither where a judge cannot say.
    """

    marks: tuple[Mark, ...] = ()
    totals: dict[str, float] = field(default_factory=dict)
    note: str = ""
    embedding: tuple[float, ...] = ()  # of a judge of sets


class Judge(Protocol):
    """Scores images by their prompts. What it computes is named by `name`, `version` and `digest`."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Changes whenever the code gives other scores."""

    @property
    def digest(self) -> str:
        """Of weights and options; empty if it has none."""

    def __call__(self, images: Sequence[Pixels], prompts: Sequence[SuitePrompt]) -> list[Judgement]:
        """Judge each image by the prompt of the same place.

        ValueError or OSError: it cannot be asked; the message says why.
        """
        ...


@runtime_checkable
class SetJudge(Judge, Protocol):
    """Embeds images, and compares all of them with a reference."""

    def reference(self) -> Features:
        """Embeddings [n, d] to compare with."""
        ...

    def distance(self, drawn: Features, reference: Features) -> float: ...
