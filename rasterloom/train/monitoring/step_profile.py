"""Trace of some of a stage's steps with torch's profiler."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from rasterloom.recipe.monitoring import Profiling

logger = logging.getLogger(__name__)


class StepProfile:
    """Profiler of the steps that ``train.profile`` names.

    A stage that resumes among them begins there.
    """

    def __init__(self, profile: Profiling, folder: Path, label: str) -> None:
        """Make one; nothing is written yet.

        Args:
            label: of the stage, for the log.
        """
        self._asked, self._folder, self._label = profile.steps, folder, label
        self._profiler: Any = None
        self._first = self._last = 0

    def before(self, step: int) -> None:
        """Begin before the first of the steps, counted from 1."""
        if self._profiler is None and self._asked[0] <= step <= self._asked[1]:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities, record_shapes=True)
            self._profiler.start()
            self._first = step
        self._last = step

    def after(self, step: int) -> None:
        """Write the trace after the last of them."""
        if step == self._asked[1]:
            self.close()

    def close(self) -> None:
        """Write the trace of the steps so far, if there are any."""
        if self._profiler is None:
            return
        self._profiler.stop()
        self._folder.mkdir(exist_ok=True)
        file = self._folder / f"steps-{self._first}-{self._last}.json.gz"
        self._profiler.export_chrome_trace(str(file))
        self._profiler = None
        logger.info("%s: the trace of steps %d to %d is in %s", self._label, self._first, self._last, file)
