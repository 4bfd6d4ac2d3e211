"""The one kind of error that is meant for the person at the keyboard."""


class Told(Exception):
    """An error that its reader can put right: the text is one sentence that says what is wrong and what to do.

    The command prints it without a traceback and ends with exit code 2.
    """
