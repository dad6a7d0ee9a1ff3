"""The one exception for what a user can put right, and how a value is shown in it."""

from typing import Any


class InputError(Exception):
    """Bad input: a file, an option, a run directory.

    Its message is one line that names the thing, what was got, what was expected and what to do;
    the command lines print it and exit with code 2. Not a ValueError: parsers of options catch
    those.
    """


def shown(value: Any) -> str:
    """What was got, on one line, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
