"""Errors that end a command, and the exit code of each.

Whatever starts a command again goes by its code: after FAILED and STOPPED that may help, after WRONG_USE and
USELESS it does not (docs/cluster.md).
"""

import re
from collections.abc import Callable

DONE, FAILED, WRONG_USE, STOPPED, USELESS, INTERRUPTED = 0, 1, 2, 3, 4, 130
EXIT_CODES = {
    DONE: "done",
    FAILED: "failed; the same command may succeed",
    WRONG_USE: "wrong use (recipe, options or input)",
    STOPPED: "stopped as asked; the same command continues",
    USELESS: "failed, and would fail again",
    INTERRUPTED: "interrupted (Ctrl-C)",
}

STOPPED_TEXT = "Stopped. What was finished is kept; run the same command to continue."

_ARGUMENT = re.compile(r"\{(\w+)\}")


class RasterloomError(Exception):
    """Base class of every error that ends a command.

    Args:
        message: what is wrong, and what is expected, in one line.
        field: the argument at fault, by its Python name; the command line shows the option in its place. One
            with a dot or a number in brackets is a field of the recipe.
        value: what was given for it.
        hint: the way out; the name of an argument in it stands in braces, as in ``{replace}``.
        needs: the step that has to be finished first.
    """

    exit_code = FAILED

    def __init__(
        self, message: object = "", *, field: str = "", value: object = None, hint: str = "", needs: str = ""
    ) -> None:
        super().__init__(message)
        self.message = str(message)
        self.field, self.value, self.hint, self.needs = field, value, hint, needs

    def __str__(self) -> str:
        return self.text(str, "run the steps up to {} first".format)

    def text(self, option: Callable[[str], str], run: Callable[[str], str]) -> str:
        """Render the error. The caller's functions name arguments and the step to run first."""
        at_fault = [option(self.field)] if self.field else []
        at_fault += [] if self.value is None else [str(self.value)]
        hint = _ARGUMENT.sub(lambda found: option(found[1]), self.hint)
        parts = [" ".join(at_fault), self.message, hint, run(self.needs) if self.needs else ""]
        return ": ".join(part for part in parts if part)


class UserError(RasterloomError):
    """A recipe, an option or an input that cannot be used."""

    exit_code = WRONG_USE


class RecipeError(UserError, ValueError):
    """The recipe or an option cannot be used. The message names the field and what it takes."""


class VersionError(UserError, ValueError):
    """There is no such version, or it cannot be changed. The message says which there are."""


class PluginError(UserError, ValueError):
    """A plug-in is missing or broken. The message names its distribution and entry point."""


class SourceError(UserError, ValueError):
    """A source cannot be used. The message names the file and what is wrong with it."""


class OptOutError(UserError, ValueError):
    """The opt-out list cannot be read. The message names the file and the entry."""


class RunError(RasterloomError):
    """Work that was begun and could not be finished."""


class StorageError(RunError, RuntimeError):
    """The workspace cannot be read or written. The message says where and what to do."""


class StepFailed(RunError, RuntimeError):
    """A step could not be finished. Its published shards stay, and the next run continues from them."""


class StorageUnusable(StorageError):
    """The workspace cannot be used until somebody changes something."""

    exit_code = USELESS


class RunPaused(StepFailed):
    """No more shards are to be begun: a budget is spent, or a server is down.

    Those under way are finished.
    """


class StepImpossible(StepFailed):
    """A step that fails in the same way each time."""

    exit_code = USELESS


class StageImpossible(RunError, ValueError):
    """The job cannot be done by any workers. Every rank raises it."""

    exit_code = USELESS


class TrainingDiverged(RunError, RuntimeError):
    """The loss guard stops the stage. The same steps would come again."""

    exit_code = USELESS


class TrainingError(RunError, RuntimeError):
    """A stage failed. The message is that of the worker that failed first."""


class TrainingStopped(RunError, RuntimeError):
    """A stage was asked to stop. Its checkpoint is saved."""

    exit_code = STOPPED


def one_line(error: BaseException, *, named: bool = False, limit: int | None = None) -> str:
    """Return an error's message in one line.

    Args:
        named: begin with the error's class, and keep only the last line of a message of several.
        limit: characters, at most.
    """
    if named:
        lines = str(error).strip().splitlines()
        text = f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    return text[:limit]
