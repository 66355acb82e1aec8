"""A Rich console that treats a closed pipe as `print` does."""

import rich.console


class Console(rich.console.Console):
    """Raises BrokenPipeError where output has no reader; Rich's own exits with code 1."""

    def on_broken_pipe(self) -> None:
        """Raises the error that Rich is handling."""
        raise
