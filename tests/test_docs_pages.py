"""The pages under docs/: their links, names, flags, commands and snippets are true of the code.

Commands are parsed by the real parser and not run. The snippets of the pages in EXECUTED run, at the size they have.
"""

import ast
import functools
import importlib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import PIL.Image
import pytest

from cnnjax import data, losses, models, ops, visualize
from cnnjax.cli import command_line, main, presets
from cnnjax.errors import UserError
from cnnjax.visualize import attribution_metrics

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
EXECUTED = (
    "index.md",
    "how-to/own-model.md",
    "how-to/own-loss.md",
    "how-to/own-objective.md",
    "how-to/own-data-source.md",
)

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def identity(page: Path) -> str:
    return str(page.relative_to(DOCS))


each_page = pytest.mark.parametrize("page", PAGES, ids=identity)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The headings' anchors, as MkDocs makes them."""
    titles = re.findall(r"^#+ +(.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@each_page
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file.read_text()), target


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(map(identity, PAGES))


def test_nothing_is_fetched():
    text = (ROOT / "mkdocs.yml").read_text()
    assert re.search(r"^  font: false$", text, re.MULTILINE)
    plugins = re.findall(
        r"^  - ([\w-]+):?$", text.partition("\nplugins:\n")[2].partition("\nmarkdown")[0], re.MULTILINE
    )
    assert plugins == ["search", "mkdocstrings"]
    assert "http" not in text and "extra_javascript" not in text


# ---- names


def resolve(name: str) -> object:
    """What a dotted name that begins with cnnjax leads to."""
    parts = name.split(".")
    # A function may have the name of its file: cnnjax.ops.conv.conv.
    file, _, last = name.rpartition(".")
    if file.endswith(f".{last}"):
        return getattr(importlib.import_module(file), last)
    found: object = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            importlib.import_module(".".join(parts[:i]))
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "reference"], ids=identity)
def test_what_the_reference_shows_exists_and_is_documented(page):
    names = re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    assert names
    for name in names:
        found = resolve(name)
        if callable(found):
            assert (found.__doc__ or "").strip(), name


@pytest.mark.parametrize(
    "module", [data, losses, models, ops, visualize, attribution_metrics], ids=lambda m: m.__name__
)
def test_the_reference_leaves_nothing_public_out(module):
    text = "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    modules = {"procedural", "atlas", "attribution_metrics", "films", "quality", "recipes"}
    aliases = {"ModelState", "Params"}  # of dict
    names = getattr(module, "__all__", None) or [name for name, value in vars(module).items()
             if getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")]  # fmt: skip
    for name in set(names) - modules - aliases:
        assert re.search(rf"^::: [\w.]*\b{name}$|`{name}`", text, re.MULTILINE), name


ROOMS = ("cnnjax", "data", "losses", "models", "train", "visualize", "formats", "ops")


@each_page
def test_names_of_the_package_in_the_text_exist(page):
    for name in re.findall(r"`((?:[a-z_]+\.)+\w+)(?:\([^`]*\))?`", prose(page.read_text())):
        if name.partition(".")[0] in ROOMS and not name.endswith((".py", ".md", ".json")):
            resolve(name if name.startswith("cnnjax.") else f"cnnjax.{name}")


@each_page
def test_files_of_the_repository_in_the_text_exist(page):
    for name in re.findall(r"`((?:cnnjax|tests|benchmarks|experiments)/[\w./-]+)`", prose(page.read_text())):
        if not name.startswith("benchmarks/results/accelerator."):  # what the command writes
            assert (ROOT / name).exists(), name


# ---- commands


def idle(function: Callable) -> Callable:
    """A function of the same flags that does nothing."""

    @functools.wraps(function)
    def nothing(*_, **__):
        return None

    return nothing


def parse(arguments: list[str]) -> None:
    """Read the arguments of `cnnjax` as the command does, without running it. Raises UserError as it does."""
    name, *rest = arguments
    entry = main.COMMANDS[name]
    function = entry.load()
    if entry.has_presets:
        function, rest = command_line.with_preset(function, rest[0], presets.preset(rest[0])), rest[1:]
    elif isinstance(function, Mapping):
        function, rest = function[rest[0]], rest[1:]
    command_line.parse(idle(function), rest, f"cnnjax {name}")


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each `cnnjax …` in the blocks of shell commands, also of those in quotes or after others."""
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            inner = [word for word in words if " cnnjax " in word]
            outer = [word for word in words if word not in inner]
            for one in [outer, *map(shlex.split, inner)]:
                starts = [i for i, pair in enumerate(zip(one, one[1:], strict=False)) if is_command(*pair)]
                if starts:
                    yield [re.sub(r"^\$\w+$", "1", word) for word in one[starts[0] + 1 :]]


def is_command(word: str, following: str) -> bool:
    return word == "cnnjax" and not following.startswith(("&", "|", ";"))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_commands_are_accepted_by_their_parser(page):
    for arguments in commands(page.read_text()):
        parse(arguments)


def test_a_wrong_command_would_be_found():
    with pytest.raises(UserError, match="--data.image-sizes"):
        parse(["train", "cnn", "--data.image-sizes", "64"])
    assert list(commands("```sh\nsrun -n 2 cnnjax train cnn # all\nssh 'cd x && cnnjax article'\n```\n")) == [
        ["train", "cnn"],
        ["article"],
    ]


@functools.cache
def known_flags() -> frozenset[str]:
    found = []
    for name, entry in main.COMMANDS.items():
        loaded = entry.load()
        if entry.has_presets:
            loaded = command_line.with_preset(loaded, "cnn", presets.preset("cnn"))
        for function in loaded.values() if isinstance(loaded, Mapping) else [loaded]:
            found += command_line.flags_of(idle(function), f"cnnjax {name}")
    return frozenset(found)


def test_flags_and_presets_in_the_text_exist():
    others = {"--strict", "--help", "--version", "--tiny", "--kills", "--xla_force_host_platform_device_count"}
    for page in PAGES:
        for code in re.findall(r"`([^`\n]+)`", prose(page.read_text())):
            for flag in re.findall(r"(?<![\w-])(--[a-z][\w.-]*[\w])", code):
                assert flag in known_flags() | others, f"{page.name}: {flag}"
        for name in re.findall(r"[Pp]resets? `([\w-]+)`", page.read_text()):
            assert name in presets.PRESETS, f"{page.name}: {name}"


# ---- snippets


def imported(tree: ast.AST) -> dict[str, str]:
    """Names that a snippet imports from cnnjax, with their full names."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cnnjax":
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an expression, or "" if it is none."""
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner and isinstance(node, ast.Attribute) else ""


@each_page
def test_snippets_compile_and_their_names_of_the_package_exist(page):
    for code in blocks(page.read_text(), "python"):
        tree = ast.parse(code)
        names = imported(tree)
        bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        for name in names.values():
            resolve(name)
        for node in ast.walk(tree):
            start, _, rest = dotted(node).partition(".")
            if rest and start in names and start not in bound:
                resolve(f"{names[start]}.{rest}")


SMALLER = {
    "epochs=2": "epochs=1",
    "steps=16": "steps=2",
    "32, 32": "16, 16",
    "image_size=32, rngs": "image_size=16, width_multiplier=0.125, rngs",
}
"""What is changed in a snippet before it runs, so that it takes a second."""


@pytest.fixture
def one_device(tmp_path, monkeypatch):
    """A snippet's surroundings: an empty folder, and one device, as its user has."""
    monkeypatch.chdir(tmp_path)
    one = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: one)
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: one)


@pytest.mark.parametrize("name", EXECUTED)
def test_snippets_run(name, one_device):
    space: dict[str, object] = {}
    for code in blocks((DOCS / name).read_text(), "python"):
        for text, other in SMALLER.items():
            code = code.replace(text, other)
        exec(compile(code, name, "exec"), space)
    shown = space.get("heat", space.get("maps", space.get("image", space.get("result", space.get("dataset")))))
    assert shown is not None


@pytest.mark.slow  # the programs of a ResNet-18 take most of a minute to compile
def test_the_quickstart_of_the_readme_is_short_and_runs(one_device):
    for number in range(40):
        path = Path("photographs", ("cat", "dog")[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.effect_noise((40, 30), 50 + number).convert("RGB").save(path)
    (code,) = blocks((ROOT / "README.md").read_text(), "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    for text, other in {"epochs=20": "epochs=1, batch_size=8", "steps=128": "steps=2", "range(8)": "range(2)"}.items():
        assert text in code
        code = code.replace(text, other)
    code = code.replace("image_size=96, rngs", "image_size=32, width_multiplier=0.0625, rngs").replace("=96", "=32")
    space: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), space)
    assert space["heat"].shape == (1, 32, 32) and space["logits"].shape == (1, 2)
    assert len(list(Path("runs/mine/filters").glob("*.png"))) == 2
