import ast
import re

import pytest

from jaxcifar.config import FIELDS
from jaxcifar.config.earlier import OLD_NAMES
from jaxcifar.config.fields import DURATIONS, SECTIONS
from jaxcifar.errors import unknown
from tests.helpers import REPOSITORY

SOURCES = {path: path.read_text() for path in sorted((REPOSITORY / "jaxcifar").rglob("*.py"))}

KNOWN = ["cifar10", "cifar100", "densenet_bc_100_12", "resnet8", "resnet18", "image_folder"]


@pytest.mark.parametrize(
    "name, near",
    [
        ("ResNet8", ["resnet8"]),
        ("res-net 18", ["resnet18"]),
        ("CIFAR10", ["cifar10"]),
        ("cifar_100", ["cifar100"]),
        ("DenseNet-BC-100-12", ["densenet_bc_100_12"]),
        ("ImageFolders", ["image_folder"]),
        ("resnt18", ["resnet18", "resnet8"]),
        ("vgg16", []),
        ("", []),
    ],
)
def test_suggestions_ignore_case_dashes_and_underscores(name, near):
    message = str(unknown("model.name", name, KNOWN))
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    assert message == f"unknown model.name {name!r}.{hint} Known: {', '.join(KNOWN)}"


def texts(source):
    """Yields the strings in a file's code, those of docstrings included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_field_that_a_text_names_exists():
    known = {*FIELDS, *OLD_NAMES, *DURATIONS}
    pattern = re.compile(
        rf"(?<![\w./])((?:{'|'.join(SECTIONS)})\.(?!py\b|bin\b|npz\b)[a-z]\w*)(?![\w(.])"
    )
    named = {
        (path.name, field)
        for path, source in SOURCES.items()
        for text in texts(source)
        for field in pattern.findall(text)
    }
    assert len(named) > 100
    assert not {(file, field) for file, field in named if field not in known}


def test_every_flag_that_a_text_names_exists():
    defined = re.findall(r'(?:DEFINE_\w+|add_argument)\(\s*"-*(\w+)"', "".join(SOURCES.values()))
    others = {"help", "helpfull", "version", "data_dir", "logdir", "porcelain"}  # of other programs
    pattern = re.compile(r"(?<![\w-])--(?!xla_)(?:config\.(\w+\.\w+)|([a-z_]+)\b)(?![.\w-])")
    for path, source in SOURCES.items():
        for field, flag in (found for text in texts(source) for found in pattern.findall(text)):
            assert field in FIELDS if field else flag in {*defined, *others}, (path, field, flag)
