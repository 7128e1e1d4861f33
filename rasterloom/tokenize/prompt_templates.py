"""Prompt templates of each task: question and answer.

The wording is that of Lumina-mGPT (paper, figure 11, and its released demos), so that its checkpoints
understand it. ``<|image|>`` stands for an image. Add a task by adding a line, or in a recipe by
``tokenize.prompts``.
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rasterloom.recipe.tokenize import Prompt, Tokenize
from rasterloom.schema import IMAGE_PLACEHOLDER, T2I
from rasterloom.utils.suggest import did_you_mean

IMAGE = IMAGE_PLACEHOLDER
ANY_SIZE = "t2i_any_size"  # the text-to-image prompt that names no size

Turn = tuple[str, str]  # role ("human" or "gpt"), message


@dataclass(frozen=True)
class Template:
    """A question and its answer. ``{names}`` in braces are filled in by ``turns``."""

    human: str
    gpt: str = IMAGE

    @property
    def fields(self) -> list[str]:
        """Names in braces, each once."""
        return fields_of(self.human + self.gpt)


def fields_of(text: str) -> list[str]:
    """Return the names in braces of a template's part, once each."""
    return list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(text) if name))


TEMPLATES = {
    T2I: Template("Generate an image of {width}x{height} according to the following prompt:\n{caption}"),
    ANY_SIZE: Template("Generate an image according to the following prompt:\n{caption}"),
    "caption": Template(f"Describe the image in detail. {IMAGE}", "{caption}"),
    "caption_paper": Template(f"Describe this image in detail.{IMAGE}", "{caption}"),
    "vqa": Template(f"{{question}} {IMAGE}", "{answer}"),
    "text": Template("{question}", "{answer}"),
    "depth": Template(f"Depth estimation. {IMAGE}"),
    "normal": Template(f"Surface normal estimation. {IMAGE}"),
    "pose": Template(f"Human pose estimation. {IMAGE}"),
    # "Segmentic" is how the released model was trained to read it; the paper has it right.
    "segmentation": Template(f"Segmentic segmentation. {IMAGE}"),
    "segmentation_paper": Template(f"Semantic segmentation. {IMAGE}"),
    "detection": Template(f"Detect: {{object}}. {IMAGE}"),
    "edit": Template(f"{{instruction}} {IMAGE}"),
    "control": Template(
        "Generate an image according to the provided image, and according to the following caption:\n"
        f"{{caption}} {IMAGE}"
    ),
    "multiview": Template(
        "Generate 16 object views of {width}x{height} according to the following prompt:\n{caption}",
        IMAGE * 8 + " " + IMAGE * 8,
    ),
}


def templates_of(prompts: Mapping[str, str | Prompt]) -> dict[str, Template]:
    """Return the table with a recipe's ``tokenize.prompts`` in it.

    A text is what the human says; the answer stays what it is, and is an image for a new task.
    """
    own = {
        task: Template(prompt.human, prompt.gpt)
        if isinstance(prompt, Prompt)
        else Template(prompt, TEMPLATES[task].gpt if task in TEMPLATES else IMAGE)
        for task, prompt in prompts.items()
    }
    return TEMPLATES | own


def turns(
    task: str, templates: Mapping[str, Template] = TEMPLATES, /, **fields: str | int | float
) -> list[Turn]:
    """Return the two turns of a task with its fields filled in.

    Raises:
        ValueError: no such task, or a field of its template is not given.
    """
    if task not in templates:
        raise ValueError(f"unknown task {task!r}; {did_you_mean(task, templates)}")
    template = templates[task]
    missing = [name for name in template.fields if name not in fields]
    if missing:
        given: list[Any] = sorted(fields)
        raise ValueError(f"task {task!r} needs {missing[0]!r}; there are {', '.join(given) or 'no fields'}")
    return [("human", template.human.format(**fields)), ("gpt", template.gpt.format(**fields))]


def t2i_task(config: Tokenize | None = None) -> str:
    """Return the text-to-image task that a recipe trains on most: one that names the size, or not."""
    return ANY_SIZE if config is not None and not config.size_in_prompt else T2I


def t2i_prompt(width: int, height: int, caption: str, config: Tokenize | None = None) -> str:
    """Return the prompt for an image, as a recipe's rows have it.

    Args:
        width: of the bucket, in pixels; so is ``height``.
        config: the recipe's section, for its own templates; None: Lumina-mGPT's, which names the size.
    """
    templates = TEMPLATES if config is None else templates_of(config.prompts)
    template = templates[t2i_task(config)]
    named = dict.fromkeys(fields_of(template.human), caption) | {"width": width, "height": height}
    return template.human.format(**named)
