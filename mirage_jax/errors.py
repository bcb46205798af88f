"""Exceptions whose message is all that a person needs: entry points print it without a traceback."""


class UserError(ValueError):
    """Bad input from a person: a file, a flag, a config.

    The message is one clear sentence that names the file or flag, what was found and
    what was expected. Entry points print it without a traceback and exit non-zero.
    """


class Stopped(Exception):
    """A run was told to stop and has saved all it did; the same command goes on from there."""


class LostPeer(RuntimeError):
    """Another process of a run is gone, so that nothing can be completed; started again, all go on."""
