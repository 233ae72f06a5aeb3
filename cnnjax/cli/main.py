"""The console command `cnnjax`, also `python -m cnnjax`: one sub-command for each thing to do."""

import contextlib
import dataclasses
import io
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, metadata
from typing import Annotated, Any, NamedTuple, NoReturn, Union

from cnnjax.cli import command_line
from cnnjax.cli.presets import PRESETS
from cnnjax.errors import UserError, unknown
from cnnjax.version import __version__

SHELLS = ("bash", "zsh", "fish")


class Entry(NamedTuple):
    """Where a sub-command is: an attribute of a module, which is imported only when the command runs."""

    module: str
    attribute: str
    sentence: str
    has_presets: bool = False

    def load(self) -> Any:
        """The function, or the functions by name."""
        return getattr(import_module(f"cnnjax.cli.{self.module}"), self.attribute)


COMMANDS: Mapping[str, Entry] = {
    "article": Entry("article", "article", "Recompute the article and write its page."),
    "train": Entry("train", "train", "Train a network: a preset, with any of its values changed by flags.", True),
    "sweep": Entry("sweep", "sweep", "Train a preset for every combination of values and seeds, and compare.", True),
    "visualize": Entry("visualize", "COMMANDS", "Show feature maps, filters and classes of a trained network."),
    "atlas": Entry("atlas", "atlas", "Show every filter of a network beside the image patches that activate it most."),
    "film": Entry("film", "COMMANDS", "Film an image while it is optimized, filters during training, or feature maps."),
    "classify": Entry("classify", "classify", "Name the most probable classes of images."),
    "explain": Entry("explain", "explain", "Show what in images speaks for a class, as heat maps of ten methods."),
    "transfer": Entry("transfer", "transfer", "Learn other classes from few images with a trained VGG, and compare."),
    "export": Entry("export", "export", "Write a network for Keras, PyTorch or as StableHLO."),
    "contact-sheet": Entry("contact_sheet", "contact_sheet", "Render images of each procedural class into one sheet."),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `cnnjax`. Exits with code 0 (done, preempted), 2 (bad input) or 130 (Ctrl-C)."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if argv and argv[0] in COMMANDS:
        run(argv[0], argv[1:], f"cnnjax {argv[0]}")
    command_line.main_without_command(lambda: _answer(argv))


def run(name: str, arguments: Sequence[str] | None = None, prog: str = "") -> NoReturn:
    """Run one sub-command with its arguments, by default those of the process."""
    entry = COMMANDS[name]
    start = command_line.main_with_preset if entry.has_presets else command_line.main
    start(entry.load(), arguments, prog)


def _answer(argv: Sequence[str]) -> int:
    """What `cnnjax` prints without a sub-command. Returns the exit code."""
    if argv and argv[0] == "--version":
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "flax", "optax"))
        print(f"cnnjax {__version__} ({versions}, Python {platform.python_version()})")
        return 0
    if argv and argv[0] == "--print-completion":
        print(completion(argv[1] if len(argv) > 1 else ""))
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: cnnjax COMMAND [--flag value …]\n\ncommands:")
        print(command_line.columns({name: entry.sentence for name, entry in COMMANDS.items()}))
        print(
            "\ncnnjax COMMAND --help lists the flags of a command.\n"
            "cnnjax train --help lists the presets.\n"
            "cnnjax --version prints versions.\n"
            f"cnnjax --print-completion {'|'.join(SHELLS)} prints a script for the\n"
            "shell that completes commands, presets and flags."
        )
        return 0 if argv else 2
    if argv[0].startswith("-"):
        raise unknown("flag", argv[0], ("--help", "--version", "--print-completion"))
    raise unknown("command", argv[0], COMMANDS)


def completion(shell: str) -> str:
    """The completion script of a shell, for all commands, presets and flags. Raises UserError for another shell."""
    import tyro

    if shell not in SHELLS:
        raise UserError(f"--print-completion {shell or 'needs a shell'}: choose one of {', '.join(SHELLS)}")
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(
            _choice({name: _function(entry) for name, entry in COMMANDS.items()}),
            prog="cnnjax",
            args=["--tyro-print-completion", shell],
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
    return text.getvalue()


def _function(entry: Entry) -> Callable[..., Any]:
    """A sub-command as one function for tyro, whose only parameter is the choice among presets or functions."""
    loaded = entry.load()
    if entry.has_presets:
        loaded = {name: command_line.with_preset(loaded, name, config) for name, config in PRESETS.items()}
    if not isinstance(loaded, Mapping):
        return loaded
    return dataclasses.make_dataclass("Choice", [("choice", _choice(loaded))])


def _choice(functions: Mapping[str, Callable[..., Any]]) -> Any:
    """A type of which tyro makes one sub-command for each function."""
    import tyro

    parts = [Annotated[Any, tyro.conf.subcommand(name, constructor=f)] for name, f in functions.items()]
    return Annotated[Union[tuple(parts)], tyro.conf.arg(name="")]  # noqa: UP007
