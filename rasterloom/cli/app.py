"""The command line: ``rasterloom`` and ``python -m rasterloom``."""

import sys
import traceback
from typing import Annotated, Any

import typer

from rasterloom import __version__
from rasterloom.cli import evaluate, jobs, sample, tokens, train, versions
from rasterloom.cli.explain import explain_command, failures_command, keep_command
from rasterloom.cli.gc import gc_command
from rasterloom.cli.options import (
    err,
)
from rasterloom.cli.report import embeddings_command, report_command
from rasterloom.cli.run import doctor_command, plan_command, run_command
from rasterloom.cli.takedown import takedown_command
from rasterloom.errors import FAILED, INTERRUPTED, WRONG_USE, RecipeError

app = typer.Typer(
    help="From a list of image-text pairs to a trained autoregressive image model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("run")(run_command)
app.command("plan")(plan_command)
app.command("doctor")(doctor_command)
app.command("failures")(failures_command)
app.command("explain")(explain_command)
app.command("keep")(keep_command)
app.command("report")(report_command)
app.command("embeddings")(embeddings_command)
app.add_typer(versions.app, name="versions")
versions.app.command("takedown")(takedown_command)
versions.app.command("gc")(gc_command)
app.add_typer(tokens.app, name="tokens")
app.add_typer(jobs.app, name="jobs")
app.command("submit")(jobs.submit_command)
app.command("tokenize")(tokens.tokenize_command)
app.command("train")(train.train_command)
app.command("sample")(sample.sample_command)
app.command("evaluate")(evaluate.evaluate_command)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line: exit code 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    from pyiceberg.exceptions import CommitFailedException, RESTError

    from rasterloom.errors import VersionError
    from rasterloom.storage.store import StorageError

    try:
        code: Any = app(standalone_mode=False)
    except (RecipeError, VersionError) as error:
        err.print(str(error), highlight=False, style="red")
        sys.exit(WRONG_USE)
    except typer.Exit as error:
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        from rasterloom.pipelines.execution.runner import StepFailed

        usage = getattr(error, "exit_code", None)
        if usage == WRONG_USE:  # click's own words on wrong options
            said = error.format_message() if hasattr(error, "format_message") else str(error)
            err.print(f"{said}  (--help says more)", style="red")
            sys.exit(WRONG_USE)
        if isinstance(error, StepFailed | StorageError | CommitFailedException | RESTError | OSError):
            err.print(" ".join(str(error).split()), highlight=False, style="red")
            sys.exit(FAILED)
        err.print(traceback.format_exc(), end="", highlight=False)
        sys.exit(FAILED)
    if code == INTERRUPTED:  # typer makes it of a KeyboardInterrupt
        err.print("Stopped. What was finished is kept; run the same command to go on.")
    sys.exit(code if isinstance(code, int) else 0)
