"""The default config, and the check that a config has the same fields and types.

Imports no network and no dataset, so that `--help` is fast.
"""

from typing import Any

from ml_collections import ConfigDict

from jaxcifar import errors
from jaxcifar.config.earlier import OLD_DEFAULTS, OLD_NAMES
from jaxcifar.config.fields import FIELDS
from jaxcifar.errors import InputError


class Section(ConfigDict):
    """A section of the config; setting a field by its old name raises an error with the new one."""

    def __setitem__(self, key: str, value: Any) -> None:
        try:
            super().__setitem__(key, value)
        except KeyError:
            for old, new in OLD_NAMES.items():
                if old.split(".")[1] == key and new.split(".")[1] in self:
                    raise KeyError(_renamed(old)) from None
            raise


def default() -> ConfigDict:
    """Returns a locked config with every field at its default value."""
    config = ConfigDict()
    for path, field in FIELDS.items():
        section, name = path.split(".")
        if section not in config:
            config[section] = Section()
        config[section][name] = field.default
    return config.lock()


def check_field(path: str) -> None:
    """Checks that `path`, such as "train.seed", is a field.

    Raises:
      InputError: with its new name if it has been renamed, or else with similar names.
    """
    section = path.split(".")[0]
    sections = dict.fromkeys(path.split(".")[0] for path in FIELDS)
    if section not in sections:
        raise errors.unknown("config section", section, sections)
    if path in OLD_NAMES:
        raise InputError(_renamed(path))
    if path not in FIELDS:
        fields = [field for field in FIELDS if field.startswith(f"{section}.")]
        if path == section:
            raise InputError(f"{path} is a section of the config; its fields: {', '.join(fields)}")
        raise errors.unknown("config field", path, fields)


def expected(path: str) -> str:
    """Returns what the value of a field must be, such as "a whole number, at least 0"."""
    field = FIELDS[path]
    kinds = {bool: "True or False", int: "a whole number", float: "a number"}
    parts = [kinds.get(type(field.default)), field.allowed.text if field.allowed else None]
    return ", ".join(filter(None, parts)) or "text"


def check_structure(config: ConfigDict) -> None:
    """Checks that a config has all fields, no others, and values of their types.

    Raises:
      InputError: naming the first field that is wrong.
    """
    for section in config:
        if not isinstance(config[section], ConfigDict):
            raise InputError(f"{section} = {config[section]!r}: must be a section of the config")
        for name in config[section]:
            check_field(f"{section}.{name}")
    for path, field in FIELDS.items():
        section, name = path.split(".")
        if name not in config.get(section, {}):
            raise InputError(f"the config has no {path}; start from jaxcifar.config.default()")
        value, kind = config[section][name], type(field.default)
        kinds = (int, float) if kind is float else kind
        if not isinstance(value, kinds) or isinstance(value, bool) is not (kind is bool):
            raise InputError(f"{path} = {value!r}: must be of type {kind.__name__}")


def with_new_names(config: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the config of a manifest with the present names and defaults of its fields.

    An earlier default becomes the present one where the field has no effect.
    """

    def new_name(section: str, name: str) -> str:
        path = f"{section}.{name}"
        return OLD_NAMES.get(path, path).split(".", 1)[1]

    renamed = {
        section: {new_name(section, name): value for name, value in dict(fields).items()}
        for section, fields in dict(config).items()
    }
    for path, value in OLD_DEFAULTS.items():
        section, name = path.split(".")
        fields, only_if = renamed.get(section, {}), FIELDS[path].only_if
        if fields.get(name) == value and "name" in fields and not only_if.holds(renamed):
            fields[name] = FIELDS[path].default
    return renamed


def same_default(path: str, *values: Any) -> bool:
    """Whether two values of a field are its default and an earlier version's, which mean the same.

    Where they have different effects, so have the images, and a run refuses other data.
    """
    return path in OLD_DEFAULTS and set(values) == {OLD_DEFAULTS[path], FIELDS[path].default}


def _renamed(old: str) -> str:
    return f"config field {old!r} has been renamed to {OLD_NAMES[old]!r}"
