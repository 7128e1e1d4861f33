"""Entry point of the command line: ``rasterloom`` and ``python -m rasterloom``."""

import errno
import logging
import sys
from typing import Annotated

import typer

from rasterloom import __version__
from rasterloom.cli import evaluate, jobs, sample, tokens, train, versions
from rasterloom.cli.exchange import adopt_command, export_command
from rasterloom.cli.explain import explain_command, failures_command, keep_command
from rasterloom.cli.fetch import fetch_command
from rasterloom.cli.gc import gc_command
from rasterloom.cli.init import init_command
from rasterloom.cli.lineage import lineage_command
from rasterloom.cli.options import err, with_options
from rasterloom.cli.report import embeddings_command, report_command
from rasterloom.cli.run import doctor_command, plan_command, run_command
from rasterloom.cli.takedown import takedown_command
from rasterloom.errors import FAILED, INTERRUPTED, WRONG_USE, RasterloomError, one_line
from rasterloom.utils.log_file import attach

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong use (recipe, options or input), 130 interrupted."

app = typer.Typer(
    help="From a list of image-text pairs to a trained autoregressive image model.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("init")(init_command)
app.command("fetch")(fetch_command)
app.command("run")(run_command)
app.command("plan")(plan_command)
app.command("doctor")(doctor_command)
app.command("failures")(failures_command)
app.command("explain")(explain_command)
app.command("keep")(keep_command)
app.command("report")(report_command)
app.command("embeddings")(embeddings_command)
app.add_typer(versions.app, name="versions")
versions.app.command("lineage")(lineage_command)
versions.app.command("export")(export_command)
versions.app.command("adopt")(adopt_command)
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
    try:
        attach()
    except (RasterloomError, OSError):  # said by what needs the folder; nothing is printed over the live view
        logging.getLogger("rasterloom").addHandler(logging.NullHandler())


def main() -> None:
    """Run the command line, and exit with one of ``EXIT_CODES``."""
    sys.exit(_run())


def _run() -> int:
    try:
        code = app(standalone_mode=False)
    except RasterloomError as error:
        return _failed(with_options(error), error.exit_code)
    except typer.Exit as error:
        return error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own, on wrong options
            return _failed(f"{error.format_message()}  (--help says more)", WRONG_USE)
        if _names_a_file(error):
            return _failed(" ".join(str(error).split()), FAILED)
        return _failed(_logged(error), FAILED)
    if code == INTERRUPTED:  # typer makes it of a KeyboardInterrupt
        err.print("Stopped. What was finished is kept; run the same command to continue.")
    return code if isinstance(code, int) else 0


def _failed(text: str, code: int) -> int:
    err.print(text, highlight=False, style="red")
    return code


def _names_a_file(error: Exception) -> bool:
    """True of a full disk, or of an unreadable or unwritable file: no defect of the program."""
    if not isinstance(error, OSError):
        return False
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or (error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and bool(error.filename))


def _logged(error: Exception) -> str:
    """Write an unexpected error's traceback to the log file. Return the line that says where."""
    text = one_line(error, named=True)
    try:
        path = attach()
    except (RasterloomError, OSError) as refused:
        return f"unexpected error: {text} (no log file: {one_line(refused)})"
    logging.getLogger("rasterloom").error("unexpected error", exc_info=error)
    return f"unexpected error: {text}; traceback in {path}"
