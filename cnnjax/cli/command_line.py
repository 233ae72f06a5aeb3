"""Command lines: typed flags from annotated functions (tyro), and one sentence with exit code 2 for bad input."""

import contextlib
import dataclasses
import errno
import functools
import inspect
import io
import itertools
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cnnjax import runtime
from cnnjax.cli import interrupts, presets, renamed, streams
from cnnjax.cli.config import Config, DistributedConfig
from cnnjax.cli.translate import translate
from cnnjax.errors import Preempted, UserError, unknown
from cnnjax.printable import printable, shortened

Command = Callable[..., Any]


def main(commands: Command | Mapping[str, Command], arguments: Sequence[str] | None = None, prog: str = "") -> NoReturn:
    """Run a function with the flags that its parameters name, or one of several functions by its name.

    Exits with code 0 (done, preempted), 2 (bad input) or 130 (Ctrl-C).
    """
    _exit(lambda argv: _run(commands, argv, prog or sys.argv[0]), arguments)


def main_with_preset(function: Command, arguments: Sequence[str] | None = None, prog: str = "") -> NoReturn:
    """Run a function whose first argument is a preset, which the flags override.

    `function(preset: str, config: Config, **own flags)` is given the config with the overrides applied.
    """
    _exit(lambda argv: _run_with_preset(function, argv, prog or sys.argv[0]), arguments)


def main_without_command(work: Callable[[], int]) -> NoReturn:
    """Exit with the code that `work` returns, or as `main` does for its errors."""

    def run(_: Sequence[str]) -> NoReturn:
        raise SystemExit(work())

    _exit(run, [])


def parse(function: Command, arguments: Sequence[str], prog: str | None = None) -> Any:
    """Call `function` with the flags in `arguments`; its annotated parameters are the flags.

    Raises UserError for a flag that does not exist (with the nearest that do) or a value that does not fit. Arguments
    that a UserError of the function names are replaced by the flags.
    """
    # Parsing and running are separate, so that an error of the run is not taken for one of the command line.
    call, rest = _without_boxes(_deferred(function), arguments, prog, return_unknown_args=True)
    if rest:
        name = rest[0].split("=")[0]
        if name.startswith("-"):
            raise _unknown_flag(name, flags_of(function, prog))
        raise UserError(f"unexpected argument {rest[0]!r}: run with --help to see the arguments")
    try:
        return call()
    except UserError as error:
        raise UserError(translate(str(error), flags_of(function, prog))) from error
    except Preempted as stop:
        raise Preempted(translate(str(stop), flags_of(function, prog))) from None


def with_preset(function: Command, name: str, chosen: Config) -> Command:
    """`function` without its `preset` parameter, and with the fields of `chosen` as flags instead of `config`."""
    import tyro

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(name, *args, **kwargs)

    signature = inspect.signature(function)
    own = [p for name, p in signature.parameters.items() if name not in ("preset", "config")]
    for part in (Config, DistributedConfig):
        describe_fields(part)
    flat = Annotated[Config, tyro.conf.arg(name="")]
    parameter = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=chosen, annotation=flat)
    call.__signature__ = signature.replace(parameters=[parameter, *own])
    call.__annotations__ = {p.name: p.annotation for p in (parameter, *own)}
    del call.__wrapped__
    return call


@functools.cache
def describe_fields(config: type) -> None:
    """Hand the docstrings of a config's fields to tyro, each as one line; it would keep their line breaks."""
    import docstring_parser

    docs = {
        param.arg_name: " ".join((param.description or "").split())
        for kind in reversed(config.__mro__[:-1])
        for param in docstring_parser.parse_from_object(kind).params
    }
    for part in dataclasses.fields(config):
        if part.name in docs:
            part.metadata = {**part.metadata, "help": docs[part.name]}
        if isinstance(part.type, type) and dataclasses.is_dataclass(part.type):
            describe_fields(part.type)


def flags_of(function: Command, prog: str | None = None) -> list[str]:
    """Every flag of a function, read from its help text."""
    import tyro

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(function, args=["--help"], prog=prog)
    return list(dict.fromkeys(re.findall(r"--[a-z][a-z0-9.\-]*", text.getvalue())))


def first_sentence(function: Command) -> str:
    """The first line of a function's docstring."""
    return (inspect.getdoc(function) or "").strip().splitlines()[0]


def _run(commands: Command | Mapping[str, Command], argv: Sequence[str], prog: str) -> None:
    if not isinstance(commands, Mapping):
        parse(commands, argv, prog)
        return
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {prog} COMMAND [--flag value …]\n\ncommands:")
        print(columns({name: first_sentence(function) for name, function in commands.items()}))
        print(f"\n{prog} COMMAND --help lists the flags of a command.")
        raise SystemExit(0 if argv else 2)
    if argv[0] not in commands:
        raise unknown("command", argv[0], commands)
    parse(commands[argv[0]], argv[1:], f"{prog} {argv[0]}")


def _run_with_preset(function: Command, argv: Sequence[str], prog: str) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        about = (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]
        print(f"usage: {prog} PRESET [--flag value …]\n\n{about}\n\npresets:")
        print(columns(presets.DESCRIPTIONS))
        print("\nThe path of a config.json in place of a preset gives the settings of that run.")
        print(f"\n{prog} PRESET --help lists the flags, with the preset's values\nas their defaults.")
        raise SystemExit(0 if argv else 2)
    if argv[0].startswith("-"):
        raise UserError(
            f"the first argument is the preset, before {argv[0]}: choose one of {', '.join(presets.PRESETS)}"
        )
    name, chosen = presets.find(argv[0])
    parse(with_preset(function, name, chosen), argv[1:], f"{prog} {argv[0]}")


def _exit(run: Callable[[Sequence[str]], None], arguments: Sequence[str] | None) -> NoReturn:
    with streams.guarded():
        try:
            try:
                _run_to_exit(run, arguments)
            finally:
                streams.flush()
        except UserError as error:  # of the streams
            _fail(str(error))


def _run_to_exit(run: Callable[[Sequence[str]], None], arguments: Sequence[str] | None) -> NoReturn:
    try:
        runtime.configure()
        interrupts.listen()
        run([_expanded(argument) for argument in (sys.argv[1:] if arguments is None else arguments)])
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None or error.errno not in _PATHS:
            raise
        _fail(f"{error.filename} cannot be used ({error.strerror}): check the path, or choose another one")
    except (RuntimeError, AssertionError) as error:
        if not _is_of_backend(error):
            raise
        _fail(_backend_sentence(error))
    except ValueError as error:
        if not str(error).startswith("Disable jit is not supported"):
            raise
        _fail("the programs of this command are compiled ahead of time, and JAX_DISABLE_JIT forbids it: unset it")
    except Preempted as stop:
        print(f"\n{stop}", file=sys.stderr)
    except KeyboardInterrupt:
        sentence = "interrupted: finished work is kept. To continue, run the same command again"
        print(f"\n{sentence}; train, sweep and transfer need --resume for that", file=sys.stderr)
        interrupts.end()
        raise SystemExit(130) from None
    raise SystemExit(0)


_PATHS = (
    errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP,
    errno.ENOSPC, errno.EDQUOT,
)  # fmt: skip
"""Errors of the system that a path explains."""


def _fail(sentence: str) -> NoReturn:
    with contextlib.suppress(UserError):  # standard error may be what cannot be written
        print(f"error: {shortened(printable(sentence))}", file=sys.stderr)
    raise SystemExit(2) from None


def _is_of_backend(error: BaseException) -> bool:
    """Whether JAX raised this because a backend did not start."""
    chain: list[BaseException | None] = [error, error.__cause__, error.__context__]  # JAX hides its own frames there
    frames = (frame for one in chain if one for frame, _ in traceback.walk_tb(one.__traceback__))
    return any(Path(frame.f_code.co_filename).name == "xla_bridge.py" for frame in frames)


def _backend_sentence(error: BaseException) -> str:
    chosen = os.environ.get("JAX_PLATFORMS")
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    remedy = f"unset JAX_PLATFORMS ({chosen}), or set it to cpu" if chosen else "try JAX_PLATFORMS=cpu"
    return f"JAX cannot start its backend ({reason}): {remedy}"


def _expanded(argument: str) -> str:
    """The argument with the home folder for a ~ that begins its path; shells expand only one that begins a word."""
    match = re.fullmatch(r"(?s)((?:--[\w.-]+=)?(?:folder:|hub:)?)(~[^/]*(?:/.*)?)", argument)
    return match[1] + os.path.expanduser(match[2]) if match else argument


def _without_boxes(function: Command, arguments: Sequence[str], prog: str | None, **options: Any) -> Any:
    """tyro's result. Of the box that it prints for an error the first statement is raised, as a UserError."""
    import tyro

    text = io.StringIO()
    try:
        with contextlib.redirect_stderr(text):
            return tyro.cli(function, args=list(arguments), prog=prog, **options)
    except SystemExit as stop:
        if stop.code == 0:
            print(textwrap.fill(f"runtime: {runtime.describe()}", 80, break_on_hyphens=False, break_long_words=False))
            raise
    sentence = _sentence(text.getvalue())
    flags = flags_of(function, prog)
    if name := re.search(r"[Uu]nrecognized (?:options|arguments): (--[\w.-]+)", sentence):
        raise _unknown_flag(name[1], flags)
    raise UserError(translate(sentence, flags))


def _unknown_flag(name: str, flags: Sequence[str]) -> UserError:
    if found := renamed.new_name(name, flags):
        return UserError(f"{name} is called {found} now")
    return unknown("flag", name, flags)


def _deferred(function: Command) -> Command:
    """The same signature, but calling it returns the call instead of making it."""

    @functools.wraps(function)
    def defer(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return lambda: function(*args, **kwargs)

    defer.__signature__ = inspect.signature(function)
    del defer.__wrapped__  # tyro would read the docstring of the function inside
    defer.__doc__ = _unwrapped(inspect.getdoc(function) or "")
    return defer


def _unwrapped(docstring: str) -> str:
    """The docstring with each argument on one line: tyro wraps them itself, and would keep these line breaks."""
    description, heading, arguments = docstring.partition("\nArgs:\n")
    return description + heading + re.sub(r"\n {8}(?=\S)", " ", arguments)


def columns(rows: Mapping[str, str]) -> str:
    """Names and sentences in two columns, 80 characters wide."""
    width, lines = max(map(len, rows)), []
    for name, sentence in rows.items():
        first, *more = textwrap.wrap(sentence, 80 - width - 4, break_on_hyphens=False) or [""]
        lines += [f"  {name:{width}}  {first}", *(" " * (width + 4) + line for line in more)]
    return "\n".join(lines)


def _sentence(box: str) -> str:
    """The first statement inside the box that tyro draws around an error."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    # Title, perhaps a rule, the statement, a rule; drawn with │ where the terminal can, with blanks where it can't.
    lines = [line.strip("│╰╯ ") for line in text.splitlines()[1:]]
    after_title = itertools.dropwhile(lambda line: set(line) <= {"─", "-"}, lines)
    statement = itertools.takewhile(lambda line: not set(line) <= {"─", "-"}, after_title)
    sentence = re.sub(r"^Error parsing (?:(?:config|[a-z.]+): )?", "", " ".join(statement))
    return _plainer(sentence) or "the command line could not be read: run with --help"


_NAMED = {"INT": "a whole number", "FLOAT": "a number", "{None}": "None", "{INT INT}": "two whole numbers"}
"""What tyro calls the types of values, and what is said of them."""


def _plainer(sentence: str) -> str:
    """tyro's statement about a value in other words, where it quotes Python."""
    if found := re.match(r"invalid choice ('.*') for argument '(.*)'\. Expected one of \((.*)\)\.", sentence):
        choices = found[3].replace("'", "")
        hint = "; torchvision is PyTorch's" if found[1] in ("'pytorch'", "'torch'") and "torchvision" in choices else ""
        return f"{found[2]} does not accept {found[1]}: choose one of {choices}{hint}"
    if found := re.match(r"(--\S+): (invalid literal for int|could not convert string to float).*?: ('.*')$", sentence):
        kind = "a whole number" if "int" in found[2] else "a number"
        return f"{found[1]} does not accept {found[3]}: {kind} is expected"
    if found := re.match(r"(--\S+): no type matching (.*) could be instantiated from \[(.*?)\]\.", sentence):
        kinds = [_NAMED.get(kind, kind) for kind in sorted(found[2].split("|"), key=lambda kind: kind == "{None}")]
        return f"{found[1]} does not accept {found[3]}: {' or '.join(kinds)} is expected"
    return sentence
