"""The error of bad input from outside."""


class InputError(Exception):
    """An argument, file or dataset that cannot be used. Its text is one line: what was given and what is expected."""
