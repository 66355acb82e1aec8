import subprocess
import sys

import pytest

from jaxcifar.config.fields import FIELDS
from jaxcifar.tools.fields import markdown
from tests.helpers import REPOSITORY


@pytest.fixture
def fields(run_command):
    """Runs the command; returns its exit code, stdout and stderr."""
    return lambda *arguments: run_command("jaxcifar.tools.fields", *arguments)[:3]


def test_all_fields_are_listed(fields):
    code, out, err = fields()
    assert code == 0 and not err
    for path, field in FIELDS.items():
        assert f"{path} = {field.default!r}" in out


def test_a_field_has_its_range_resume_class_and_condition(fields):
    code, out, _ = fields("num_ops")
    assert code == 0
    assert " ".join(out.split()) == (
        "augment.num_ops = 2 RandAugment: number of operations per image from 1 to 100; may change "
        "on resume with --accept_config_change; used only if augment.policy = 'randaugment'"
    )


def test_words_search_names_and_descriptions_in_any_case(fields):
    _, out, _ = fields("RANDAUGMENT", "strength")
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [
        "augment.magnitude = 9"
    ]


def test_the_two_fields_of_a_duration_come_together(fields):
    _, out, _ = fields("length", "warm-up")
    assert "schedule.warmup_steps = 0 or schedule.warmup_epochs = 0.0" in out.splitlines()


def test_a_word_that_is_nowhere_is_an_error(fields):
    code, out, err = fields("warmupp")
    assert (code, out) == (1, "")
    assert err == "error: no field contains 'warmupp'\n"


def test_the_documentation_is_up_to_date():
    text = (REPOSITORY / "docs" / "config.md").read_text()
    assert text == markdown(), "run python -m jaxcifar.tools.fields --markdown > docs/config.md"


def test_jax_is_not_imported():
    script = "import sys, jaxcifar.tools.fields; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY).returncode == 0
