"""The error for what a user can put right: an option, a path, a row of data."""


class UserError(ValueError):
    """An option or a row of data that cannot be used, with what to do about it.

    The command line prints its message without a traceback and exits with code 2; any other
    exception is taken for a bug and keeps its traceback.
    """
