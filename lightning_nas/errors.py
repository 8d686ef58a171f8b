"""Exceptions whose message says what was got, what was expected and how to fix it.

The command line prints them as one line and exits with status 2; anything else is a defect and shows a traceback.
"""


class NASError(Exception):
    """Base of every error a user can cause and mend."""


class SpaceError(NASError, ValueError):
    """An architecture, string or graph does not belong to the search space."""


class EncodingError(NASError, ValueError):
    """An encoding is not defined for this search space or input."""


class BenchmarkDataError(NASError):
    """A benchmark's file, table or column is missing, damaged or not what it claims to be."""


class EvaluationError(NASError):
    """An architecture could not be trained or scored."""


class SearchStateError(NASError):
    """A search cannot start or resume from the state it finds."""


class RunFolderError(NASError):
    """The run folder cannot be used: not writable, or holds another run."""


class UsageError(NASError):
    """A command was given arguments that do not fit together."""
