"""DeepSpeed's configuration: what the recipe says of it, and what the user adds in DeepSpeed's own words."""

from typing import Any

from rasterloom.recipe.train import Train

BETAS = (0.9, 0.95)
BUCKET_ELEMENTS = 200_000_000  # gradients reduced at once, at most
AUTO = "auto"  # DeepSpeed's users write it where a launcher is to fill in a value

# What Rasterloom decides, and the field of the recipe that says it.
_DECIDED = {
    "train_batch_size": "the stage's batch_tokens",
    "train_micro_batch_size_per_gpu": "train.micro_batch_tokens",
    "gradient_accumulation_steps": "train.micro_batch_tokens",
    "gradient_clipping": "train.grad_clip",
    "optimizer.type": "train.optimizer",
    "optimizer.params.lr": "the stage's lr",
    "optimizer.params.weight_decay": "train.weight_decay",
    "scheduler": "the stage's lr, min_lr and warmup_steps",
    "bf16.enabled": "train.deepspeed.bf16",
    "fp16": "train.deepspeed.bf16 (float16 is not supported)",
    "zero_optimization.stage": "train.deepspeed.zero",
    "checkpoint.load_universal": "nothing: a checkpoint of another number of workers is converted by itself",
}


# What DeepSpeed 0.19 does wrong when it is switched on.
_WRONG = {
    "zero_optimization.round_robin_gradients": "DeepSpeed then mistakes the places of weights in its "
    "partitions, and exported models are scrambled",
    "zero_optimization.elastic_checkpoint": "DeepSpeed cannot load what it then saves, and checkpoints fit "
    "other numbers of workers without it",
    "gradient_predivide_factor": "DeepSpeed has none but 1 under ZeRO, and gradients are summed in float32, "
    "where they need no scaling",
    "prescale_gradients": "DeepSpeed does not under ZeRO, and gradients are summed in float32, where they "
    "need no scaling",
}
_DEFAULTS = {"gradient_predivide_factor": 1}  # of these, where it is not false


def deepspeed_config(
    train: Train, *, bucket_elements: int = BUCKET_ELEMENTS, use_gpu: bool = False
) -> dict[str, Any]:
    """Build the configuration of a run, ``train.deepspeed.extra`` merged into it.

    Gradients are accumulated in float32, also under bf16, where the weights have a float32 master copy. CPUs
    send them in float32 as well. GPUs, which wait for the network, send them in the precision of the weights,
    and ZeRO 2 to the rank alone that keeps them, during the backward pass. The number of micro-batches
    differs from step to step, so DeepSpeed is told of one, and the end of a step is marked by hand.

    Raises:
        ValueError: ``extra`` says something else than the recipe does.
    """
    given = train.deepspeed
    zero: dict[str, Any] = {
        "stage": given.zero,
        "reduce_bucket_size": bucket_elements,
        "allgather_bucket_size": bucket_elements,
    }
    if given.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu"}
    if use_gpu and given.zero == 2:  # ZeRO 3 does so by itself, and ZeRO 1 at the end of a step alone
        zero["overlap_comm"] = True
        zero["use_multi_rank_bucket_allreduce"] = False  # which would send gradients to all ranks
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "steps_per_print": 2**31,
        "gradient_clipping": train.grad_clip,
        "zero_optimization": zero,
        "bf16": {"enabled": given.bf16 or False},
        "communication_data_type": "bf16" if use_gpu and given.bf16 else "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
    }
    if train.optimizer == "adamw":
        # torch's own: DeepSpeed's would be compiled on the spot, which takes a compiler.
        params = {"lr": 1.0, "betas": list(BETAS), "torch_adam": True, "fused": True}
        config["optimizer"] = {"type": "AdamW", "params": params}
    elif given.zero:
        config["zero_allow_untested_optimizer"] = True  # DeepSpeed knows its own Muon alone
    extra = _without_auto(given.extra)
    _check(extra, config)
    return _merged(config, extra)


def _check(extra: dict[str, Any], ours: dict[str, Any]) -> None:
    for name, where in _DECIDED.items():
        value, known = _look(extra, name), _look(ours, name)
        if value is None or value == known or (name == "fp16" and not value.get("enabled")):
            continue
        raise ValueError(f"train.deepspeed: DeepSpeed's {name} cannot be {value!r}: it is set by {where}")
    for name, reason in _WRONG.items():
        value = _look(extra, name)
        if value and value != _DEFAULTS.get(name):
            raise ValueError(f"train.deepspeed: leave out DeepSpeed's {name}: {reason}")


def _without_auto(config: dict[str, Any]) -> dict[str, Any]:
    """The values that are given: without ``auto``, at any depth, and sections that said nothing else.

    A section's ``type`` says nothing by itself: a scheduler whose params are all ``auto`` is left to us.
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            left = _without_auto(value)
            if not left or (name == "scheduler" and "params" in value and set(left) == {"type"}):
                continue
            value = left
        if value != AUTO:
            found[name] = value
    return found


def _look(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _merged(ours: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for name, value in extra.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merged(merged[name], value)
        else:
            merged[name] = value
    return merged
