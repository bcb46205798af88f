"""The one exception that means: the input was wrong, and this sentence says how."""


class UserError(ValueError):
    """Bad input from a person: a file, a flag, a config.

    The message is one clear sentence that names the file or flag, what was found and
    what was expected. Entry points print it without a traceback and exit non-zero.
    """
