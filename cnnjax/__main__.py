"""`python -m cnnjax` is the same as the command `cnnjax`."""

from cnnjax.cli import interrupts


def main() -> None:
    """The console command."""
    interrupts.begin()
    # What it imports takes seconds, within which Ctrl-C would be a traceback.
    from cnnjax.cli.main import main as command

    command()


def run(name: str) -> None:
    """One sub-command with the arguments of the process, for a script that does nothing else."""
    interrupts.begin()
    from cnnjax.cli.main import run as command

    command(name)


if __name__ == "__main__":
    main()
