"""The float32 weights that a stage in bf16 starts from.

DeepSpeed rounds a model to bf16 first and makes its float32 copy, which the optimizer steps, of the rounded
weights: of each stage's result, 16 of 24 bits would reach the next one. So they are kept, and put back.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from rasterloom.recipe.train import Train
from rasterloom.schema import Profile
from rasterloom.train.deepspeed_compat import set_own_share, whole_shape
from rasterloom.train.model.initialization import starting_weights
from rasterloom.train.model.packed_lm import PackedLM, zero_image_head

ExactWeights = Iterable[tuple[str, Tensor]]
"""Name in the language model, and all of the parameter in float32."""


def exact_weights(model: PackedLM, init: str, profile: Profile, train: Train) -> ExactWeights:
    """The trained weights before DeepSpeed rounds them; none where it does not.

    With ZeRO 3 a rank has its share alone, rounded already: there they are read, or drawn, a second time.

    Args:
        model: not moved to its device yet.
        init: what it was built from.
    """
    if not train.deepspeed.bf16:
        return ()
    trained = {name: p for name, p in model.lm.named_parameters() if p.requires_grad}
    if train.deepspeed.zero != 3:
        return [(name, parameter.detach()) for name, parameter in trained.items()]
    shapes = {  # without adapters, as the model was built
        name.replace(".base_layer.", "."): whole_shape(parameter)
        for name, parameter in model.lm.named_parameters()
        if hasattr(parameter, "ds_shape")
    }
    weights = starting_weights(
        init, profile, shapes, seed=train.seed, zero_image_head=zero_image_head(init, train)
    )
    return ((name, tensor) for name, tensor in weights if name in trained)


def restore_exact(engine: Any, weights: ExactWeights) -> None:
    """Put the weights into the float32 copies that the optimizer steps."""
    parameters: dict[str, Tensor] = dict(engine.module.lm.named_parameters())
    for name, tensor in weights:
        set_own_share(parameters[name], tensor)
