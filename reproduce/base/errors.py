"""The one exception that is the user's to mend."""


class UserError(Exception):
    """A wrong path, name or file: one sentence that names it, what was expected, what to do.

    The command line prints it on one line and exits with status 2; it never shows a traceback.

    Attributes:
        rank: the process that prints it, where several raise the same; None for each that raises.
        everywhere: whether all ranks of a group raise it, so that the first prints it for all.
        label: what is printed before it.
        status: the exit status of the command.
    """

    rank: int | None = None
    everywhere = False
    label = 'error'
    status = 2


class OutOfMemory(UserError):
    """The end of work that the memory of the machine, or of a GPU, did not hold."""


class DataNotFound(UserError):
    """A folder that exists and does not hold the data set that was looked for in it."""


class CheckpointNotFound(UserError):
    """A folder that exists and does not hold the weights that were looked for in it."""
