"""The prompts of each task, in one table: what the human says, and what the answer is made of.

The wording is that of Lumina-mGPT (paper, figure 11, and its released demos), so that its checkpoints
understand it. ``<|image|>`` stands for a picture. Add a task by adding a line.
"""

from dataclasses import dataclass

IMAGE = "<|image|>"

Turn = tuple[str, str]  # role ("human" or "gpt"), message


@dataclass(frozen=True)
class Template:
    """A question and its answer; ``{names}`` in braces are filled in by ``turns``."""

    human: str
    gpt: str = IMAGE


TEMPLATES = {
    "t2i": Template("Generate an image of {width}x{height} according to the following prompt:\n{caption}"),
    "t2i_any_size": Template("Generate an image according to the following prompt:\n{caption}"),
    "caption": Template(f"Describe the image in detail. {IMAGE}", "{caption}"),
    "vqa": Template(f"{{question}} {IMAGE}", "{answer}"),
    "text": Template("{question}", "{answer}"),
    "depth": Template(f"Depth estimation. {IMAGE}"),
    "normal": Template(f"Surface normal estimation. {IMAGE}"),
    "pose": Template(f"Human pose estimation. {IMAGE}"),
    # "Segmentic" is how the released model was trained to read it.
    "segmentation": Template(f"Segmentic segmentation. {IMAGE}"),
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


def turns(task: str, **fields: str | int) -> list[Turn]:
    """Return the two turns of a task with its fields filled in.

    Raises:
        ValueError: no such task, or a field of its template is not given.
    """
    if task not in TEMPLATES:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(TEMPLATES)}")
    template = TEMPLATES[task]
    try:
        return [("human", template.human.format(**fields)), ("gpt", template.gpt.format(**fields))]
    except KeyError as error:
        raise ValueError(f"task {task!r} needs {error.args[0]!r}") from None


def t2i_prompt(width: int, height: int, caption: str) -> str:
    """Return the resolution-aware prompt; ``width`` and ``height`` are the bucket's, in pixels."""
    return TEMPLATES["t2i"].human.format(width=width, height=height, caption=caption)
