"""Exceptions for errors that the user can fix."""


class UserError(Exception):
    """A wrong path, name or file, in one sentence: which one, what was expected, and what to do.

    The command line prints it on one line without a traceback.
    """

    everywhere = False  # whether all ranks of a group raise it, so that the first alone prints it
    label = 'error'  # what is printed before it
    status = 2  # the exit status of the command


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its type if it has none."""
    return str(error).partition('\n')[0] or type(error).__name__


class DataNotFound(UserError):
    """The folder exists, and does not hold the data set."""


class CheckpointNotFound(UserError):
    """The folder exists, and does not hold the weights."""
