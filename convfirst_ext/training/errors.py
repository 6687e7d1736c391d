"""What can go wrong in a training run; every message is one sentence for the user."""


class TrainingError(Exception):
    """A run cannot start or go on.

    Attributes:
        in_every_process: whether each process that fails has something of its own to say.
    """

    in_every_process = False


class ConfigError(TrainingError, ValueError):
    """A setting is unknown, of the wrong type, out of its range, or does not fit the machine."""


class DataError(TrainingError):
    """The images are not there or cannot be read."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be read or belongs to another run."""


class MissingPackageError(TrainingError, ImportError):
    """A package that only training needs is not installed."""


class DivergedError(TrainingError):
    """The loss is no longer a finite number."""


class StoppedError(TrainingError):
    """The run was interrupted, or lost one of its processes."""

    in_every_process = True
