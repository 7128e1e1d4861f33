"""Checks of a stage's job before anything is started."""

from rasterloom.recipe.train import Train
from rasterloom.train.deepspeed_config import deepspeed_config
from rasterloom.train.job import StageJob
from rasterloom.train.model.shapes import SIZES
from rasterloom.train.monitoring.trackers import check_trackers


def check_settings(train: Train) -> None:
    """Check settings and installed packages, before there are tokens.

    Raises:
        ValueError: the package of a tracker or of LoRA is missing, or ``train.deepspeed`` contradicts the
            rest of the recipe.
    """
    deepspeed_config(train)
    check_trackers(train.trackers)
    if train.model.lora is not None:
        from rasterloom.train.model.lora import check_lora_installed  # heavy

        check_lora_installed()


def check(job: StageJob) -> None:
    """Look for what would fail later, before any worker is started.

    Raises:
        ValueError: there are no token files, the weights to start from are missing or do not fit, the
            package of a tracker is missing, the model cannot be packed, or ``train.deepspeed`` contradicts
            the rest of the recipe.
    """
    check_settings(job.train)
    if not job.token_files:
        raise ValueError(f"there are no tokens of target {job.stage.label} to train on")
    if job.init not in SIZES or job.train.model.lora is not None:
        from rasterloom.train.model.packed_lm import check_start  # heavy
        from rasterloom.train.model.packing_check import check_packing  # heavy

        check_start(job.init, job.profile, job.train)
        check_packing(job.init)
