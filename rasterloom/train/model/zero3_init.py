"""Builds a model for ZeRO 3: each rank holds its share of a parameter from the start, and never all."""

from typing import Any

import torch.distributed as dist

from rasterloom.recipe.train import Train
from rasterloom.schema import Profile
from rasterloom.train.deepspeed_compat import whole_shape
from rasterloom.train.deepspeed_config import deepspeed_config
from rasterloom.train.model.initialization import ZeroHead, empty_model, model_config, starting_weights
from rasterloom.train.transformers_compat import without_initial_weights


def build_partitioned(
    init: str, profile: Profile, train: Train, *, zero_image_head: ZeroHead = "auto"
) -> Any:
    """Build what `initialization.build_model` does, parameter by parameter; every rank calls this.

    Rank 0 reads or draws the weights and the others take part, so that a rank's memory holds its share of
    the model, and one parameter.

    Raises:
        ValueError: as `initialization.build_model`.
    """
    import deepspeed  # heavy

    with deepspeed.zero.Init(config_dict_or_path=deepspeed_config(train)), without_initial_weights():
        model = empty_model(model_config(init, profile))
    parameters: dict[str, Any] = dict(model.named_parameters())
    shapes = {name: whole_shape(parameter) for name, parameter in parameters.items()}
    weights = starting_weights(init, profile, shapes, seed=train.seed, zero_image_head=zero_image_head)
    for name, tensor in weights:
        with deepspeed.zero.GatheredParameters([parameters[name]], modifier_rank=0):
            if dist.get_rank() == 0:
                parameters[name].data.copy_(tensor)
    return model
