"""What the documentation points to is there: functions, tests, files, commands."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from cnnjax import visualize
from cnnjax.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLE = (ROOT / "docs" / "visualization.md").read_text()


def rows() -> list[list[str]]:
    """The cells of the table of peers."""
    lines = TABLE.partition("|-|-|-|-|-|-|-|-|-|-|-|\n")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_feature_of_the_peers_is_here_with_a_function_and_a_test():
    found = rows()
    assert len(found) == 17 and all(len(row) == 11 for row in found)
    for row in found:
        assert row[-1].startswith("●"), row[0]
        names = re.findall(r"`([\w.]+)`", row[-1])
        assert names and "test](" in row[-1]
        for name in names:
            room, _, attribute = name.partition(".")
            there = hasattr(visualize, attribute) if room == "visualize" else importlib.import_module(f"cnnjax.{name}")
            assert there, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_to_tests_by_name(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http:", "https:", "#")):
            continue
        path, _, name = target.partition("#")
        file = page.parent / path
        assert file.exists(), f"{page.name}: {target}"
        if file.suffix == ".py" and name:
            functions = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
            assert name in functions, f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_those_of_the_console(page):
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for name in re.findall(r"^cnnjax ([a-z][\w-]*)", block, re.MULTILINE):
            assert name in main.COMMANDS, f"{page.name}: cnnjax {name}"
