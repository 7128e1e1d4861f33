"""Private API of Hugging Face datasets in use, for versions 5.x."""

from typing import Any


def with_features(data: Any) -> Any:
    """Return a streamed data set whose features are known. Those of text files are read off their start.

    ``IterableDataset._resolve_features`` is what ``datasets`` itself calls for it, for want of a public name.
    """
    return data if data.features is not None else data._resolve_features()
