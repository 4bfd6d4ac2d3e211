"""The one kind of error that is meant for the person at the keyboard, and the first line of any other."""


class Told(Exception):
    """An error that its reader can put right: the text is one sentence that says what is wrong and what to do.

    The command prints it without a traceback and ends with exit code 2.
    """


def first_line(error: BaseException) -> str:
    """What an error says in its first line, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
