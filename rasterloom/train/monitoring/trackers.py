"""Trackers: TensorBoard and Weights & Biases, behind one small interface. Rank 0 alone has any."""

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

EVENTS = "events"  # folder of TensorBoard's files in a stage's folder

_PACKAGES = {"tensorboard": ("tensorboardX", "tensorboardX"), "wandb": ("wandb", "'rasterloom[wandb]'")}


class Tracker(Protocol):
    """Destination of a stage's figures."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Note values by name, as of a step."""
        ...

    def image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Note an image, RGB [h, w, 3], as of a step."""
        ...

    def close(self) -> None: ...


def check_trackers(names: Sequence[str]) -> None:
    """Raise ValueError if the package of a tracker is missing."""
    for name in names:
        package, install = _PACKAGES[name]
        if find_spec(package) is None:
            others = [other for other in names if other != name]
            raise ValueError(
                f"train.trackers names {name}, but {package} is not installed: pip install {install}, "
                f"or set trackers: [{', '.join(others)}]"
            )


def open_trackers(
    names: Sequence[str], folder: Path, *, run: str, settings: Mapping[str, Any], keep: int = 0
) -> list[Tracker]:
    """Open trackers that write below a stage's folder.

    Args:
        run: identifies the stage; a run that goes on is known by it.
        settings: shown beside the figures.
        keep: the last step that counts; what an attempt that was lost noted beyond it is passed over.

    Raises:
        ValueError: the package of a tracker is missing.
    """
    check_trackers(names)
    make: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(folder / EVENTS, keep=keep),
        "wandb": lambda: WeightsAndBiases(folder, run, settings),
    }
    return [make[name]() for name in names]


class TensorBoard:
    """Event files, which every ``tensorboard --logdir`` reads."""

    def __init__(self, folder: Path, *, keep: int | None = None, suffix: str = "") -> None:
        """Open a new file. What earlier ones have beyond step ``keep``, if given, is struck out."""
        from tensorboardX import SummaryWriter  # heavy

        purge = keep + 1 if keep else None
        if keep == 0 and any(folder.glob("*tfevents*")):
            purge = 0  # of an attempt that was cut before its first checkpoint; it measured at step 0, too
        self._writer = SummaryWriter(str(folder), purge_step=purge, filename_suffix=suffix, flush_secs=10)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb. ``WANDB_PROJECT``, ``WANDB_MODE=offline`` and wandb's other variables are its own."""

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any]) -> None:
        import wandb  # heavy

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rasterloom"),
            id=run,
            name=folder.parent.name,
            dir=str(folder),
            config=dict(settings),
            resume="allow",
        )
        # wandb counts its own steps and drops what goes back: ours is the axis, so that a resumed run fits.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        self._run.log({name: self._wandb.Image(pixels), "step": step})

    def close(self) -> None:
        self._run.finish()
