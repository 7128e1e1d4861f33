"""Preview images of a stage while it trains.

Training knows no codec. It draws codes into ``samples/step-<n>.json``; the driver, which has the codec, puts
the images beside them as they come, and into TensorBoard where the recipe has that.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rasterloom.recipe.sampling import SamplingConfig
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.recipe.train import Train
from rasterloom.schema import Profile
from rasterloom.tokenize.codecs.base import Codec
from rasterloom.tokenize.conversation import encode_prompt
from rasterloom.tokenize.prompt_templates import t2i_prompt
from rasterloom.tokenize.text_tokenizer import TextEncoder
from rasterloom.train.job import Preview
from rasterloom.train.monitoring.trackers import EVENTS, TensorBoard
from rasterloom.utils.json_files import read_json

MOST_PROMPTS = 4  # of the recipe's: every image costs the stage time


def preview_of(
    config: SamplingConfig, size: tuple[int, int], text: TextEncoder, profile: Profile, tokenize: Tokenize
) -> Preview | None:
    """Preview of the first prompts of a recipe's ``sample``, at one size.

    None if it has no prompts.
    """

    prompts = config.prompts[:MOST_PROMPTS]
    if not prompts:
        return None
    asked = [[("human", t2i_prompt(*size, prompt, tokenize))] for prompt in prompts]
    ids = [encode_prompt(turns, [], text.encode, profile).tolist() for turns in asked]
    return Preview(
        prompts=prompts,
        prompt_ids=tuple(map(tuple, ids)),
        sizes=(size,) * len(prompts),
        cfg=config.cfg,
        temperature=config.temperature,
        top_k=config.top_k,
        seed=config.seed,
    )


class PreviewImages:
    """Decoder of the previews in a stage's folder, each once."""

    def __init__(self, stage: Path, codec: Codec, train: Train) -> None:
        self.stage, self.codec = stage, codec
        self.to_tensorboard = "tensorboard" in train.trackers

    def update(self) -> None:
        """Decode previews that have no images yet, or newer codes."""
        for drawing in sorted((self.stage / "samples").glob("step-*.json")):
            first = _image_of(drawing, 0)
            if first.exists() and first.stat().st_mtime_ns >= drawing.stat().st_mtime_ns:
                continue
            record = read_json(drawing)
            images = [self.codec.decode(np.array(codes)[None])[0] for codes in record["codes"]]
            if self.to_tensorboard:
                self._show(images, record)
            for number, pixels in reversed(
                list(enumerate(images))
            ):  # the first one last: it says all is done
                Image.fromarray(pixels).save(_image_of(drawing, number))

    def _show(self, images: Sequence[NDArray[np.uint8]], record: dict[str, Any]) -> None:
        # Names of files have seconds, and two drawings may be shown in one.
        board = TensorBoard(self.stage / EVENTS, suffix=f".pictures-{record['step']:08d}")
        for prompt, pixels in zip(record["prompts"], images, strict=True):
            board.image(f"samples/{prompt}", pixels, record["step"])
        board.close()


def _image_of(drawing: Path, number: int) -> Path:
    return drawing.with_name(f"{drawing.stem}-{number}.png")
