"""The options of a program, read from its options class: `options_of(TrainConfig)["data.batch_size"]`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option as a user sees it."""

    name: str
    """As on the command line, without the dashes."""
    kind: Any
    """Annotation of the field."""
    default: Any
    """MISSING = the option is required."""

    @property
    def choices(self) -> tuple[Any, ...]:
        """Alternatives of the annotation, without None."""
        is_union = get_origin(self.kind) in (Union, UnionType)
        return tuple(kind for kind in (get_args(self.kind) if is_union else (self.kind,)) if kind is not NoneType)

    @property
    def is_flag(self) -> bool:
        """Whether its name alone switches it on."""
        return bool in self.choices

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return any(get_origin(kind) in (list, tuple) for kind in self.choices)

    @property
    def may_be_one(self) -> bool:
        """Whether it takes a single value and not a list, such as the one number of a square size."""
        return any(get_origin(kind) not in (list, tuple) for kind in self.choices)

    @property
    def is_free(self) -> bool:
        """Whether it takes names of its own, as model.overrides does."""
        return any(get_origin(kind) is dict for kind in self.choices)


@functools.cache
def options_of(config_class: Any) -> Mapping[str, Option]:
    """Every option of a program by its name, in the order of the fields."""
    found: dict[str, Option] = {}
    kinds = get_type_hints(config_class)
    for item in fields(config_class):
        kind: Any = kinds[item.name]
        if hasattr(kind, "__dataclass_fields__"):
            inner: Mapping[str, Option] = options_of(kind)
            found |= {f"{item.name}.{name}": replace(option, name=f"{item.name}.{name}") for name, option in inner.items()}
        else:
            default = item.default if item.default_factory is MISSING else item.default_factory()
            found[item.name] = Option(name=item.name, kind=kind, default=default)
    return found


def groups_of(config_class: Any) -> dict[str, Any]:
    """The options class of each group, by the name of the group."""
    kinds = get_type_hints(config_class)
    return {item.name: kinds[item.name] for item in fields(config_class) if is_dataclass(kinds[item.name])}


def find_option(name: str, options: Mapping[str, Option]) -> Option | None:
    """The option of this name, or the free option that a name such as model.overrides.dropout is part of."""
    if name in options:
        return options[name]
    prefixes = (option for option in options.values() if option.is_free and name.startswith(f"{option.name}."))
    return next(prefixes, None)


def build(config_class: Any, values: Mapping[str, Any]) -> Any:
    """An options object from values by the names of the options; its own checks raise `ValueError`."""
    arguments = {name: value for name, value in values.items() if "." not in name}
    for group, group_class in groups_of(config_class).items():
        own = {name.removeprefix(f"{group}."): value for name, value in values.items() if name.startswith(f"{group}.")}
        arguments[group] = build(group_class, own)
    return config_class(**arguments)
