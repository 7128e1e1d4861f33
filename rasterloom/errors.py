"""The errors that end a command, and the exit code of each."""

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130


class StageImpossible(ValueError):
    """The job cannot be done, and not with other workers either; every rank raises it."""


class TrainingDiverged(RuntimeError):
    """The guard stops the stage."""


class TrainingError(RuntimeError):
    """A stage failed; the message is that of the worker that failed first."""


class TrainingStopped(RuntimeError):
    """A stage was asked to stop, and has saved a checkpoint to go on from."""


class OptOutError(ValueError):
    """The list cannot be read; the message names the file and the entry."""


def one_line(error: BaseException) -> str:
    """Return an error's words in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


class PluginError(ValueError):
    """A plug-in is missing or broken; the message names its distribution and entry point."""


class SourceError(ValueError):
    """A source cannot be used; the message names the file and what is wrong with it."""


class VersionError(ValueError):
    """There is no such version, or it cannot be changed; the message says which there are."""


class RecipeError(ValueError):
    """The recipe cannot be used; the message names the field and what it takes."""


class StorageError(RuntimeError):
    """The workspace cannot be read or written; the message says where and what to do."""


class StepFailed(RuntimeError):
    """A step could not be finished; what it published so far stays, and a further run goes on from there."""
