"""Errors that a user can mend. A command ends with their message alone; any other error keeps its traceback."""


class UserError(ValueError):
    """Something in an option, a file or a folder is not what it must be; the message names wanted and found."""


class NonFiniteError(UserError):
    """A tensor holds NaN or infinity."""
