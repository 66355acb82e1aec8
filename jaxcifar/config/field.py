"""A field of the config, and what the table of fields is made of."""

from typing import Any, Literal, NamedTuple

from jaxcifar.config.rules import Condition, Rule, at_least, increasing

Resume = Literal["identity", "changeable", "free"]

# The saved state has another shape or meaning under another value: the network and its arrays, the
# images held out, and what the step number says about the images seen so far.
IDENTITY: Resume = "identity"
# The state can still be used, but the run is no longer the one that its config describes.
CHANGEABLE: Resume = "changeable"
# Where data is stored, how work is divided into calls and processes, and how often the run is
# evaluated, logged and saved.
FREE: Resume = "free"


class Field(NamedTuple):
    """A field of the config.

    Attributes:
      default: its value unless a recipe sets another; also determines its type.
      help: one sentence for the user.
      allowed: values that it may have; None if its type is the only limit.
      resume: whether its value may change when a run is resumed: "identity" never, "changeable"
        with --accept_config_change, recorded in the manifest, and "free" always.
      only_if: configs in which it has an effect; None for all. Elsewhere it must have its default.
    """

    default: Any
    help: str
    allowed: Rule | None = None
    resume: Resume = CHANGEABLE
    only_if: Condition | None = None


def duration(
    path: str,
    help: str,
    *,
    resume: Resume = CHANGEABLE,
    only_if: Condition | None = None,
    many: bool = False,
) -> dict[str, Field]:
    """Returns the two fields of a duration, `{path}_steps` and `{path}_epochs`, by their paths.

    At most one of the two may be set. With `many` they hold increasing tuples of durations.
    """
    if many:
        steps = Field((), help, increasing(int), resume, only_if)
        epochs = Field((), help, increasing(int, float), resume, only_if)
    else:
        steps = Field(0, help, at_least(0), resume, only_if)
        epochs = Field(0.0, help, at_least(0), resume, only_if)
    return {f"{path}_steps": steps, f"{path}_epochs": epochs}
