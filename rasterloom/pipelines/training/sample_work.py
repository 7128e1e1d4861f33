"""Work of the step `sample`: its images, on any machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from rasterloom.pipelines.training import sample_grid
from rasterloom.pipelines.training.result_folder import model_folder
from rasterloom.pipelines.training.suite_images import JudgedImage
from rasterloom.recipe.sampling import SamplingConfig
from rasterloom.recipe.tokenize import Tokenize
from rasterloom.storage.store import Store
from rasterloom.tokenize.text_tokenizer import text_of

BATCH = 60  # images drawn at once


@dataclass(frozen=True)
class Drawing:
    """Input of the images that are drawn."""

    store: Store
    model: str
    """Name of the model's folder in the store."""
    text: str
    """The tokenizer.json of the tokens."""
    sample: SamplingConfig
    tokenize: Tokenize
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each image of a prompt."""
    sequences: Mapping[str, Sequence[Sequence[int]]]
    """Token sequences of the corpus by bucket, to compare with."""
    threads: int
    gpu: bool


@dataclass(frozen=True)
class Drawn:
    """Images of a recipe's samples."""

    images: list[Image.Image]
    of_suite: list[JudgedImage]
    real: dict[str, list[Image.Image]]
    """Images of the corpus through the codec, by bucket."""


def draw(drawing: Drawing) -> Drawn | None:
    """Draw a recipe's samples, on a GPU in bf16.

    None where the codec has no decoder. Where nothing is asked for, the model is not loaded.
    """
    from rasterloom.tokenize.codecs.load import codec_of  # heavy
    from rasterloom.train.model.threads import torch_threads  # heavy
    from rasterloom.train.sampling.sampler import open_sampler  # heavy

    config, tokenize = drawing.sample, drawing.tokenize
    device = "cuda" if drawing.gpu else "cpu"
    codec = codec_of(tokenize, device)
    if not codec.can_decode:
        return None
    encoder, profile = text_of(tokenize, drawing.text)
    images: list[Image.Image] = []
    of_suite: list[JudgedImage] = []
    asked = sample_grid.image_requests(config, drawing.sizes)
    if asked or config.suite:
        with torch_threads(drawing.threads), model_folder(drawing.store, drawing.model) as folder:
            sampler = open_sampler(folder, profile, device, bf16=drawing.gpu)
            sampler.batch = BATCH
            images = sample_grid.draw(sampler, encoder, codec, asked, config, tokenize)
            of_suite = sample_grid.draw_suite(sampler, encoder, codec, config, tokenize)
    real = {
        bucket: sample_grid.images_of(codec, profile, [list(ids) for ids in sequences])
        for bucket, sequences in drawing.sequences.items()
        if asked  # they are what images of prompts are compared with
    }
    return Drawn(images, of_suite, real)
