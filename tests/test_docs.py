"""The Markdown files: what they name exists."""

import ast
import re

import pytest

from jaxcifar.tools.command import COMMANDS
from tests.helpers import REPOSITORY

TESTS = REPOSITORY / "tests"
PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]


def functions_of(path):
    """The names of the functions in a Python file."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_every_test_named_in_the_guarantees_exists():
    page = (REPOSITORY / "docs" / "guarantees.md").read_text()
    file, checked = None, 0
    for name, test in re.findall(r"`([\w/]*\.py|)(?:::(\w+))?`", page):
        if name:
            file = TESTS / name
            assert file.exists(), name
        if test:
            assert test in functions_of(file), f"{file.name}::{test}"
        checked += 1
    assert checked > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_recipes_exist(page):
    text = page.read_text()
    for recipe in re.findall(r"configs/\w+\.py", text):
        assert (REPOSITORY / recipe).exists(), recipe
    for script in re.findall(r"scripts/[\w/]+\.(?:py|sh)", text):
        assert (REPOSITORY / script).exists(), script
    for command in re.findall(r"^\s*jaxcifar ([\w-]+)", text, re.MULTILINE):
        assert command in COMMANDS, command
    for module in re.findall(r"python -m (jaxcifar[\w.]*)", text):
        assert (REPOSITORY / (module.replace(".", "/") + ".py")).exists(), module


def test_the_readme_is_an_entrance():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 160
