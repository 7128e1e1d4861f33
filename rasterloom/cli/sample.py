"""The command ``sample``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rasterloom.cli.options import AT_STEP, EMA, RecipePath, load_recipe, out

if TYPE_CHECKING:
    from rasterloom.pipelines.models.generate import SampleRequest
    from rasterloom.pipelines.models.load import ModelChoice
    from rasterloom.recipe.recipe import Recipe
    from rasterloom.recipe.sampling import BestOf

Prompts = Annotated[list[str] | None, typer.Option(help="Prompt; may be repeated.")]
PromptFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Text file of prompts, one a line.")]
Images = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="Image to ask about; may be repeated.")
]
Task = Annotated[
    str | None,
    typer.Option(
        help="t2i, edit, caption, depth, ... (docs/tasks.md). Default: t2i of a prompt, edit of a prompt "
        "and an image, caption of an image."
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WxH",
        help="Size of the images, a bucket of the target; may be repeated. Default: the square, or the "
        "given image's bucket.",
    ),
]
Cfg = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Classifier-free guidance scale; 1: none. Default: the recipe's sample.cfg without --image, 1 "
        "with one, as in Lumina-mGPT.",
    ),
]
Temperature = Annotated[
    float | None, typer.Option(min=0.01, help="Sampling temperature. Default: the recipe's.")
]
ImageTopK = Annotated[
    int | None, typer.Option(min=1, help="Top-k of image tokens. Default: the recipe's sample.top_k.")
]
Seed = Annotated[int | None, typer.Option(help="Random seed. Default: the recipe's sample.seed.")]
TextTopK = Annotated[int, typer.Option(min=1, help="Top-k of text tokens.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Length limit of a text answer, in tokens.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Answers that are sampled at once.")]
Window = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="TOKENS",
        help="Tokens in one pass of the model: from 2 on codes are drafted and checked, one image at a time "
        "(speculative Jacobi decoding); other images of the same distribution.",
    ),
]
BestOfN = Annotated[
    int | None,
    typer.Option(
        "--best-of",
        min=1,
        max=64,
        metavar="N",
        help="Generate N images for each that is kept, the one that --judge scores highest; 1: no choice. "
        "Default: the recipe's sample.best_of.",
    ),
]
JudgeName = Annotated[
    str | None,
    typer.Option(
        "--judge", metavar="NAME", help="Judge that chooses. Default: the recipe's sample.best_of, or scene."
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="New or empty folder. Default: samples, samples-2, ..."),
]
StageNumber = Annotated[
    int | None, typer.Option(min=1, help="Stage of the recipe, from 1. Default: the last finished one.")
]
AtStep = Annotated[str | None, typer.Option(metavar="N|latest", help=AT_STEP)]
Average = Annotated[bool, typer.Option("--ema", help=EMA.format("in place of them"))]
ModelFolder = Annotated[
    Path | None,
    typer.Option("--model", metavar="FOLDER", help="Checkpoint in transformers' format, instead of a stage."),
]


def sample_command(
    recipe: RecipePath,
    prompt: Prompts = None,
    prompts: PromptFile = None,
    image: Images = None,
    task: Task = None,
    size: Sizes = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Answers to each prompt.")] = 1,
    cfg: Cfg = None,
    temperature: Temperature = None,
    top_k: ImageTopK = None,
    text_top_k: TextTopK = 10,
    max_tokens: MaxTokens = 512,
    seed: Seed = None,
    batch: BatchSize = 8,
    window: Window = 1,
    best_of: BestOfN = None,
    judge: JudgeName = None,
    folder: Folder = None,
    stage: StageNumber = None,
    step: AtStep = None,
    average: Average = False,
    model: ModelFolder = None,
) -> None:
    """Generate images, or describe or edit an image, with a trained model.

    \b
    rasterloom sample RECIPE --prompt "a red circle" --n 4
    rasterloom sample RECIPE --prompts prompts.txt --size 768x512 --cfg 4
    rasterloom sample RECIPE --prompt "two green stars" --best-of 4
    rasterloom sample RECIPE --image cat.jpg
    rasterloom sample RECIPE --image cat.jpg --prompt "make it red"

    Images always have the requested size. Answer number i depends on
    --seed and i alone, not on --batch. Settings that are not given are
    those of the recipe's section sample.
    """
    from rasterloom.pipelines.models import generate  # heavy
    from rasterloom.pipelines.models.load import ModelChoice  # heavy

    loaded = load_recipe(recipe)
    own = loaded.sample
    request = generate.SampleRequest(
        prompts=(*(prompt or ()), *(generate.prompts_in(prompts) if prompts else ())),
        images=tuple(image or ()),
        task=task,
        sizes=tuple(size or ()),
        n=n,
        cfg=cfg if cfg is not None or image else own.cfg,
        temperature=own.temperature if temperature is None else temperature,
        top_k=own.top_k if top_k is None else top_k,
        text_top_k=text_top_k,
        seed=own.seed if seed is None else seed,
        batch=batch,
        window=window,
        max_tokens=max_tokens,
        best_of=_best_of(own.best_of, best_of, judge, bool(image)),
    )
    _sample(loaded, generate.checked(request), ModelChoice(stage, step, model, average), folder)


def _best_of(own: "BestOf | None", n: int | None, judge: str | None, of_image: bool) -> "BestOf | None":
    """The recipe's choice, with the options in its place. It has none of answers to an image."""
    from rasterloom.recipe.filtering import Score  # heavy
    from rasterloom.recipe.sampling import BestOf  # heavy

    if n == 1 or (n is None and judge is None and (own is None or of_image)):
        return None
    chosen = own or BestOf()
    return BestOf(n=n or chosen.n, judge=Score(name=judge) if judge else chosen.judge)


def _sample(recipe: "Recipe", request: "SampleRequest", choice: "ModelChoice", folder: Path | None) -> None:
    from rasterloom.pipelines.models import generate  # heavy
    from rasterloom.pipelines.models.load import decoder_of, load_model, text_codec_of  # heavy
    from rasterloom.pipelines.progress.reporter import Progress  # heavy
    from rasterloom.pipelines.workflow import Workflow  # heavy
    from rasterloom.storage.layout import GRID, SAMPLES_JSON  # heavy

    workflow = Workflow(recipe)
    choice.check()
    folder = generate.free_folder(folder)
    text_codec = text_codec_of(workflow)
    model = load_model(workflow, choice, text_codec)
    if choice.folder is None:
        for line in generate.untaught(workflow.recipe, request.prompts):
            out.print(line, highlight=False)
    progress = Progress(out)
    with progress.showing():
        codec = decoder_of(workflow.recipe)
        found = generate.generate(workflow.recipe, model, text_codec, codec, request, progress)
    generate.write(found, model, request, folder)
    for text in found.texts:
        out.print(text, highlight=False)
    out.print(generate.settings_used(found, request), highlight=False)
    out.print(generate.throughput(found), highlight=False)
    out.print(f"samples: {folder / (GRID if found.images else SAMPLES_JSON)}", highlight=False)
