"""Entry point of the command line: ``rasterloom`` and ``python -m rasterloom``."""

import errno
import logging
import re
from typing import Annotated, Any

import typer

from rasterloom import __version__
from rasterloom.cli import evaluate, jobs, sample, tokens, train, versions
from rasterloom.cli.exchange import adopt_command, export_command, push_command
from rasterloom.cli.explain import caption_command, explain_command, failures_command, keep_command
from rasterloom.cli.fetch import fetch_command
from rasterloom.cli.gc import gc_command
from rasterloom.cli.help import App, usage_message
from rasterloom.cli.init import init_command
from rasterloom.cli.lineage import lineage_command
from rasterloom.cli.options import err, with_options
from rasterloom.cli.report import embeddings_command, report_command
from rasterloom.cli.run import doctor_command, plan_command, run_command
from rasterloom.cli.serve import serve_command
from rasterloom.cli.takedown import takedown_command
from rasterloom.errors import (
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    STOPPED,
    STOPPED_TEXT,
    WRONG_USE,
    RasterloomError,
    one_line,
)
from rasterloom.utils.log_file import attach
from rasterloom.utils.sigterm import sigterm

app = App(
    help="From a list of image-text pairs to a trained autoregressive image model.",
    epilog=f"Exit codes: {' | '.join(f'{code} {meaning}' for code, meaning in EXIT_CODES.items())}.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_BUILD, _LOOK = "Build a corpus", "Look at a corpus and its models"
_USE, _KEEP, _CLUSTER = "Train and use models", "Versions and tokens", "Clusters"
for _panel, _name, _function in (
    (_BUILD, "init", init_command),
    (_BUILD, "fetch", fetch_command),
    (_BUILD, "doctor", doctor_command),
    (_BUILD, "plan", plan_command),
    (_BUILD, "run", run_command),
    (_LOOK, "failures", failures_command),
    (_LOOK, "explain", explain_command),
    (_LOOK, "keep", keep_command),
    (_LOOK, "caption", caption_command),
    (_LOOK, "report", report_command),
    (_LOOK, "serve", serve_command),
    (_USE, "train", train.train_command),
    (_USE, "sample", sample.sample_command),
    (_USE, "evaluate", evaluate.evaluate_command),
    (_KEEP, "tokenize", tokens.tokenize_command),
    (_KEEP, "embeddings", embeddings_command),
    (_CLUSTER, "submit", jobs.submit_command),
):
    app.command(_name, rich_help_panel=_panel)(_function)
app.add_typer(tokens.app, name="tokens", rich_help_panel=_KEEP)
app.add_typer(versions.app, name="versions", rich_help_panel=_KEEP)
app.add_typer(jobs.app, name="jobs", rich_help_panel=_CLUSTER)
versions.app.command("lineage")(lineage_command)
versions.app.command("export")(export_command)
versions.app.command("push")(push_command)
versions.app.command("adopt")(adopt_command)
versions.app.command("takedown")(takedown_command)
versions.app.command("gc")(gc_command)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    try:
        attach()
    except (RasterloomError, OSError):  # said by what needs the folder; nothing is printed over the live view
        logging.getLogger("rasterloom").addHandler(logging.NullHandler())


def run() -> int:
    """Run the command line. Return its exit code."""
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
            return _misused(f"{error.format_message()}{_commands(error)}")
        if _names_a_file(error):
            return _failed(" ".join(str(error).split()), FAILED)
        if not _was_interrupted(error):
            return _failed(_logged(error), FAILED)
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer makes it of a KeyboardInterrupt
        err.print(STOPPED_TEXT)
        return STOPPED if sigterm.came else INTERRUPTED
    return code if isinstance(code, int) else 0


def _commands(error: Any) -> str:
    """The end of a message about an unknown command: where one of its name is, or which a group has."""
    found = re.match(r"No such command '([^']+)'\.$", error.format_message())
    if not found:
        return ""
    if error.ctx.parent:
        return f" It has {', '.join(error.ctx.command.commands)}."
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    homes = [f"'{name} {found[1]}'" for name, group in groups.items() if group and _has(group, found[1])]
    return f" Did you mean {' or '.join(homes)}?" if homes else ""


def _has(group: typer.Typer, command: str) -> bool:
    return any(known.name == command for known in group.registered_commands)


def _misused(message: str) -> int:
    """Print what click says of wrong options, if anything."""
    return _failed(f"{usage_message(message)}  (--help says more)", WRONG_USE) if message else WRONG_USE


def _was_interrupted(error: BaseException | None) -> bool:
    """True of an error that an extension module made of Ctrl-C.

    DuckDB's, in the middle of a query, is a RuntimeError with these words and no cause.
    """
    seen = 0
    while error is not None and seen < 20:
        if isinstance(error, KeyboardInterrupt) or str(error) == "Query interrupted":
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


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
