"""The one exception type that is shown to a user without a traceback."""


class UserError(Exception):
    """A mistake a person can mend.

    The message names the file, field or record, says what was wrong and what to do.
    Entry points print it as one line and exit with status 2.
    """
