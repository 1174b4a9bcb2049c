"""The one exception that a person's input can cause."""


class UserError(Exception):
    """Something the person can mend: the message is one clear sentence.

    It names the file, line or field, says what is wrong and what to do. The command line prints it
    and ends with exit code 2; Python callers catch it as an ordinary exception.
    """
