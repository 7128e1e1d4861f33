"""The commands that ask a trained model: sample and evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from rasterloom.cli.options import AT_STEP, RecipePath, out
from rasterloom.errors import RecipeError
from rasterloom.recipe.loader import load_recipe
from rasterloom.storage.layout import GRID, SAMPLES_JSON

StageNumber = Annotated[
    int | None, typer.Option(min=1, help="Stage of the recipe, from 1. Default: the last that is done.")
]
ModelFolder = Annotated[
    Path | None,
    typer.Option("--model", metavar="FOLDER", help="Any checkpoint in transformers' form instead."),
]


def sample_command(
    recipe: RecipePath,
    prompt: Annotated[list[str] | None, typer.Option(help="What to ask for; may be given again.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text file of prompts, one a line.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A picture to ask about; may be given again.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="t2i, edit, caption, depth, ... (docs/tasks.md). Default: t2i of a prompt, edit of a prompt "
            "and an image, caption of an image."
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WxH",
            help="Size of the pictures, a bucket of the target; may be given again. Default: the square, or "
            "the image's own.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Answers to each.")] = 1,
    cfg: Annotated[
        float | None,
        typer.Option(
            min=0, help="Guidance; 1: none. Default: 3 without --image, 1 with one, as in Lumina-mGPT."
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.01)] = 1.0,
    top_k: Annotated[int, typer.Option(min=1, help="Of the codes of a picture.")] = 2000,
    text_top_k: Annotated[int, typer.Option(min=1, help="Of the tokens of a text.")] = 10,
    max_tokens: Annotated[int, typer.Option(min=1, help="Where a text is cut off.")] = 512,
    seed: int = 0,
    batch: Annotated[int, typer.Option(min=1, help="Answers that are drawn at once.")] = 8,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FOLDER", help="A new or empty folder. Default: samples, samples-2, ..."
        ),
    ] = None,
    stage: StageNumber = None,
    step: Annotated[str | None, typer.Option(metavar="N|latest", help=AT_STEP)] = None,
    model: ModelFolder = None,
) -> None:
    """Draw pictures with a trained model, let it tell of a picture, or edit one.

    \b
    rasterloom sample RECIPE --prompt "a red circle" --n 4
    rasterloom sample RECIPE --prompts prompts.txt --size 768x512 --cfg 4
    rasterloom sample RECIPE --image cat.jpg
    rasterloom sample RECIPE --image cat.jpg --prompt "make it red"

    Pictures always have the size asked for. Answer number i depends on
    --seed and i alone, not on --batch.
    """
    from rasterloom.pipelines.models import generate
    from rasterloom.pipelines.models.load import decoder_of, language_of, model_at, trained_at, trained_of
    from rasterloom.pipelines.progress.reporter import Progress
    from rasterloom.pipelines.workflow import Workflow

    loaded = load_recipe(recipe)
    if model and (stage or step):
        raise RecipeError("give either --stage or --model")
    request = generate.Request(
        prompts=(*(prompt or ()), *(generate.prompts_in(prompts) if prompts else ())),
        images=tuple(image or ()),
        task=task,
        sizes=tuple(size or ()),
        n=n,
        cfg=cfg if cfg is not None else 1.0 if image else 3.0,
        temperature=temperature,
        top_k=top_k,
        text_top_k=text_top_k,
        seed=seed,
        batch=batch,
        max_tokens=max_tokens,
    )
    if not request.prompts and not request.images:
        raise RecipeError("nothing is asked for: give --prompt, --prompts or --image")
    folder = generate.free_folder(folder)
    workflow = Workflow(loaded)
    language = language_of(workflow)
    if model:
        trained = model_at(workflow, model, language)
    else:
        trained = trained_at(workflow, stage, step, language) if step else trained_of(workflow, stage)
    progress = Progress(out)
    with progress.showing():
        drawn = generate.draw(loaded, trained, language, decoder_of(loaded), request, progress)
    generate.write(drawn, trained, request, folder)
    for text in drawn.texts:
        out.print(text, highlight=False)
    out.print(generate.pace(drawn), highlight=False)
    out.print(
        f"samples: {folder / (GRID if drawn.pictures else SAMPLES_JSON)}",
        highlight=False,
    )
