"""The commands that ask a trained model: sample and evaluate."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rasterloom.cli_common import AsFormat, OutputFormat, RecipePath, err, out, print_json
from rasterloom.recipe import RecipeError, load_recipe
from rasterloom.utils.redact import as_json, safe

StageNumber = Annotated[
    int | None, typer.Option(min=1, help="Stage of the recipe, from 1. Default: the last that is done.")
]
ModelFolder = Annotated[
    Path | None,
    typer.Option("--model", metavar="FOLDER", help="Any checkpoint in transformers' form instead."),
]
AT_STEP = (
    "A checkpoint in the middle of the stage, by its optimizer step, or latest; without --stage, of the last "
    "stage that has any."
)


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
    from rasterloom.pipelines import draw
    from rasterloom.pipelines.progress import Progress
    from rasterloom.pipelines.trained import decoder_of, language_of, model_at, trained_at, trained_of

    loaded = load_recipe(recipe)
    if model and (stage or step):
        raise RecipeError("give either --stage or --model")
    request = draw.Request(
        prompts=(*(prompt or ()), *(draw.prompts_in(prompts) if prompts else ())),
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
    folder = draw.free_folder(folder)
    language = language_of(loaded)
    if model:
        trained = model_at(loaded, model, language)
    else:
        trained = trained_at(loaded, stage, step, language) if step else trained_of(loaded, stage)
    progress = Progress(out)
    with progress.showing():
        drawn = draw.draw(loaded, trained, language, decoder_of(loaded), request, progress)
    draw.write(drawn, trained, request, folder)
    for text in drawn.texts:
        out.print(text, highlight=False)
    out.print(draw.pace(drawn), highlight=False)
    out.print(
        f"samples: {folder / ('grid.png' if drawn.pictures else 'samples.json')}",
        highlight=False,
    )


def evaluate_command(
    recipe: RecipePath,
    stage: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Stage to measure, from 1; may be given again. Default: the last that is done."
        ),
    ] = None,
    step: Annotated[
        list[str] | None,
        typer.Option(metavar="N|latest", help=f"{AT_STEP} May be given again, of one stage."),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="A checkpoint to measure beside; may be given again."),
    ] = None,
    target: Annotated[
        int | None, typer.Option(help="Measure on tokens of this resolution. Default: the last checkpoint's.")
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="Held-out pictures for the codec's figures and for CLIP's.")
    ] = 64,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="A CLIP of transformers. Default: that of the recipe's score clip."
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json", help="Save the figures here too.")
    ] = None,
    output: AsFormat = OutputFormat.TABLE,
) -> None:
    """Measure checkpoints, side by side, on what was held out of training.

    Held-out loss in all, by task and by bucket; what the codec keeps of the
    held-out pictures (PSNR, SSIM); and, where CLIP's weights are at hand,
    how well drawn pictures fit their captions (CLIP score) and how far they
    lie from the held-out ones (CLIP-FD: FID's distance, of CLIP's image
    embeddings). Figures of stages are kept, and stand in the report.
    """
    from rasterloom.pipelines import evaluation
    from rasterloom.pipelines.progress import Progress
    from rasterloom.pipelines.trained import codec_or_none, language_of, model_at, trained_at, trained_of

    loaded = load_recipe(recipe)
    stages = stage or []
    if step and len(stages) > 1:
        raise RecipeError("--step takes the checkpoints of one stage: give one --stage")
    clip_model = evaluation.clip_of(loaded, clip)
    language = language_of(loaded)
    if step:
        number = stages[0] if stages else None
        checkpoints = [trained_at(loaded, number, one, language) for one in step]
    else:
        checkpoints = [trained_of(loaded, number) for number in stages]
        checkpoints += [] if stages or model else [trained_of(loaded)]
    checkpoints += [model_at(loaded, folder, language) for folder in model or ()]
    codec = codec_or_none(loaded)
    progress = Progress(err)
    with progress.showing():
        held = evaluation.held_out(loaded, target or checkpoints[-1].target, language, codec, pictures)
        found = evaluation.evaluate(loaded, checkpoints, language, codec, held, clip_model, progress)
    if save:
        save.write_text(as_json(asdict(found), indent=None if output is OutputFormat.JSON else 1))
    report = evaluation.keep(loaded, checkpoints, found)
    if output is OutputFormat.JSON:
        print_json(asdict(found))
        return
    out.print(_table(found))
    for note in found.notes:
        out.print(note, highlight=False)
    if report:
        out.print(f"report: {report}", highlight=False)


def _table(found: Any) -> Table:
    """A line a figure, a column a checkpoint."""
    table = Table(
        f"held out of {found.target}",
        *(safe(c.name) for c in found.checkpoints),
        "",
        box=None,
        pad_edge=False,
    )
    columns = [c.heldout for c in found.checkpoints]

    def add(name: str, values: list[float | None], note: str = "") -> None:
        table.add_row(safe(name), *("-" if v is None else f"{v:.4g}" for v in values), note)

    whole = columns[0]["all"]
    add("loss", [c["all"]["loss"] for c in columns], f"{whole['rows']:,} rows, {whole['tokens']:,} tokens")
    for kind in ("tasks", "buckets"):
        for name, first in columns[0][kind].items():
            add(f"  {name}", [c[kind].get(name, {}).get("loss") for c in columns], f"{first['rows']:,} rows")
    if found.clip_of_heldout is not None:
        real = f"{found.clip_of_heldout:.4g} of the held-out pictures; {found.drawn:,} drawn"
        add("CLIP score", [c.clip for c in found.checkpoints], real)
        add("CLIP-FD", [c.clip_fd for c in found.checkpoints], f"{found.clip_dimensions} dimensions")
    if found.codec:
        told = f"{found.codec.psnr:.2f} dB PSNR, {found.codec.ssim:.3f} SSIM"
        table.add_row("codec", *[""] * len(columns), f"{told} of {found.codec.pictures:,} pictures")
    return table
