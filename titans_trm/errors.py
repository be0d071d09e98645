"""The one exception that is the user's to fix."""


class InputError(ValueError):
    """Bad configuration or bad input: entry points print it as one clear message and exit with status 2."""
