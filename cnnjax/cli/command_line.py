"""Command lines: typed flags from annotated functions (tyro), and one sentence with exit code 2 for bad input."""

import contextlib
import functools
import io
import itertools
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

from cnnjax import runtime
from cnnjax.cli import config as configs
from cnnjax.errors import Preempted, UserError, unknown

Command = Callable[..., Any]


def parse(function: Command, arguments: Sequence[str], prog: str | None = None) -> Any:
    """Call `function` with the flags in `arguments`; its annotated parameters are the flags.

    Raises UserError for a flag that does not exist (with the nearest that do) or a value that does not fit.
    """
    import tyro

    def quiet(f: Command, **options: Any) -> Any:
        """tyro prints a box and exits; keep its first statement as the sentence. A help text goes through."""
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                return tyro.cli(f, args=list(arguments), prog=prog, **options)
        except SystemExit as stop:
            if stop.code == 0:
                print(f"runtime: {runtime.describe()}")
                raise
            raise UserError(_sentence(said.getvalue())) from None

    # Parsing and running are apart, so that an error of the run is not taken for one of the command line.
    call, rest = quiet(_deferred(function), return_unknown_args=True)
    if rest:
        name = rest[0].split("=")[0]
        if name.startswith("-"):
            raise unknown("flag", name, _flags(function, prog))
        raise UserError(f"unexpected argument {rest[0]!r}: run with --help to see what there is")
    return call()


def main(commands: Command | dict[str, Command], arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a script: one function, or sub-commands by name. Exits 0 (done, preempted), 2 (bad input), 130 (Ctrl-C)."""
    _exit(lambda argv: _run(commands, argv), arguments)


def main_with_preset(function: Command, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a script whose first argument is a preset and whose flags override it.

    `function(preset: str, config: Config, **own flags)` gets the config with the overrides applied.
    """

    def run(argv: Sequence[str]) -> None:
        names = ", ".join(configs.PRESETS)
        if not argv or argv[0] in ("-h", "--help"):
            print(f"usage: {sys.argv[0]} PRESET [--flag value …]\npresets: {names}\nPRESET --help lists the flags")
            raise SystemExit(0 if argv else 2)
        if argv[0].startswith("-"):
            raise UserError(f"the first argument is the preset, before {argv[0]}: choose one of {names}")
        chosen = configs.preset(argv[0])
        parse(_with_default(function, argv[0], chosen), argv[1:], prog=f"{sys.argv[0]} {argv[0]}")

    _exit(run, arguments)


def _run(commands: Command | dict[str, Command], argv: Sequence[str]) -> None:
    if not isinstance(commands, dict):
        parse(commands, argv)
        return
    if not argv or argv[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name}: {(f.__doc__ or '').strip().splitlines()[0]}" for name, f in commands.items())
        print(f"usage: {sys.argv[0]} COMMAND [--flag value …]\n{lines}\nCOMMAND --help lists its flags")
        raise SystemExit(0 if argv else 2)
    if argv[0] not in commands:
        raise unknown("command", argv[0], commands)
    parse(commands[argv[0]], argv[1:], prog=f"{sys.argv[0]} {argv[0]}")


def _exit(run: Callable[[Sequence[str]], None], arguments: Sequence[str] | None) -> NoReturn:
    try:
        run(list(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Preempted as stop:
        print(f"\n{stop}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted: what is finished is kept, run the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None
    raise SystemExit(0)


def _deferred(function: Command) -> Command:
    """The same signature, but calling it returns the call instead of making it."""

    @functools.wraps(function)
    def defer(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return lambda: function(*args, **kwargs)

    return defer


def _with_default(function: Command, name: str, chosen: configs.Config) -> Command:
    """`function` without its `preset` parameter, its `config` parameter flattened and defaulting to the preset."""
    import inspect

    import tyro

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(name, *args, **kwargs)

    signature = inspect.signature(function)
    own = [p for name, p in signature.parameters.items() if name not in ("preset", "config")]
    flat = Annotated[configs.Config, tyro.conf.arg(name="")]
    parameter = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=chosen, annotation=flat)
    call.__signature__ = signature.replace(parameters=[parameter, *own])
    call.__annotations__ = {p.name: p.annotation for p in (parameter, *own)}
    del call.__wrapped__
    return call


def _flags(function: Command, prog: str | None) -> list[str]:
    """Every flag of `function`, read from its help text."""
    import tyro

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        tyro.cli(function, args=["--help"], prog=prog)
    return list(dict.fromkeys(re.findall(r"--[a-z][a-z0-9.\-]*", said.getvalue())))


def _sentence(box: str) -> str:
    """The first statement inside the box that tyro draws around an error."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    # Title, perhaps a rule, the statement, a rule; drawn with │ where the terminal can, with blanks where it can't.
    lines = [line.strip("│╰╯ ") for line in text.splitlines()[1:]]
    after_title = itertools.dropwhile(lambda line: set(line) <= {"─", "-"}, lines)
    statement = itertools.takewhile(lambda line: not set(line) <= {"─", "-"}, after_title)
    sentence = re.sub(r"^Error parsing (config|[a-z.]+)\b: ", "", " ".join(statement))
    return sentence or "the command line could not be read: run with --help"
