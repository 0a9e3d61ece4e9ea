"""The one error a user may cause, and that a user may read."""


class PosconError(Exception):
    """Something the user gave cannot be used.

    The message is one line that says which file or setting, what is wrong with it and what to
    do. The command line prints it and exits with code 2; the Python API raises it.
    """
