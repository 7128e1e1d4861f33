"""Undocumented parts of transformers that training needs, all of them.

They hold for transformers 5.20 to 5.23; ``tests/train/test_transformers_compat.py`` tells which of them a
later one moved.
"""

from contextlib import AbstractContextManager
from typing import Any

from transformers import PreTrainedConfig

HOLDS_FOR = ">=5.20,<6"


class TransformersMoved(RuntimeError):
    """Raised where transformers lacks a part that is needed."""

    def __init__(self, name: str) -> None:
        import transformers  # heavy

        super().__init__(
            f"transformers {transformers.__version__} has no {name}: Rasterloom takes transformers "
            f"{HOLDS_FOR} (rasterloom/train/transformers_compat.py)"
        )


def without_initial_weights() -> AbstractContextManager[Any]:
    """Build models whose weights are not drawn, in a block."""
    try:
        from transformers.initialization import no_init_weights  # heavy
    except ImportError:
        raise TransformersMoved("transformers.initialization.no_init_weights") from None
    context: AbstractContextManager[Any] = no_init_weights()
    return context


def attention_name(config: PreTrainedConfig) -> str:
    """The name of a model's attention, as `set_attn_implementation` takes it."""
    try:
        name: str = config._attn_implementation
    except AttributeError:
        raise TransformersMoved("config._attn_implementation") from None
    return name
