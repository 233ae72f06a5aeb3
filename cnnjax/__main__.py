"""`python -m cnnjax` is the same as the command `cnnjax`."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnnjax.cli import interrupts


def main() -> None:
    """The console command."""
    interrupts.begin()
    # What it imports takes seconds, within which Ctrl-C would be a traceback.
    with importing():
        from cnnjax.cli.main import main as command

    command()


def run(name: str) -> None:
    """One sub-command with the arguments of the process, for a script that does nothing else."""
    interrupts.begin()
    with importing():
        from cnnjax.cli.main import run as command

    command(name)


@contextmanager
def importing() -> Iterator[None]:
    """JAX reads the variables of its settings when it is imported: one that it refuses becomes a sentence."""
    try:
        yield
    except ValueError as error:
        files = (Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__))
        if not any(file.parts[-3:] == ("jax", "_src", "config.py") for file in files):
            raise
        sentence = f"error: JAX refuses one of its environment variables ({error}): correct it or unset it"
        raise SystemExit(_print(sentence)) from None


def _print(sentence: str) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"{sentence.encode('ascii', 'backslashreplace').decode()}\n")
    return 2


if __name__ == "__main__":
    main()
