"""`python -m cnnjax` is the same as the command `cnnjax`."""

from cnnjax.cli.main import main

if __name__ == "__main__":
    main()
