"""The words of a command line, sorted by the options that they follow: `split_words(["--seed", "3"])`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any


def split_words(args: Sequence[str], once: Container[str] = ()) -> dict[str, list[str]]:
    """The words after each option, by its name without dashes: `--tins 1 2` and `--tins=1 2` are {"tins": ["1", "2"]}.

    Of an option that is given twice the last one counts, so that a command can be repeated with something changed at its
    end; except for the options in `once`, for which both could be meant, unless the last is in brackets.

    Raises:
        ValueError: a word follows no option, or an option in `once` is given twice.
    """
    found: dict[str, list[str]] = {}
    repeated = []
    name = None
    for word in args:
        if _is_option(word):
            name, equals, value = word.lstrip("-").partition("=")
            name = "help" if word == "-h" else name
            repeated += [name] if name in found and name in once else []
            found[name] = [value] if equals else []
        elif name is None:
            remedy = f"a recipe is given as --config {word}" if word.endswith((".yaml", ".yml")) else "options begin with --"
            raise ValueError(f"{word!r} is not an option: {remedy}")
        else:
            found[name].append(word)
    for name in repeated:
        if not "".join(found[name]).startswith("["):
            remedy = "give one, which may say `extends: other.yaml`" if name == "config" else "give all its values after one"
            raise ValueError(f"--{name} is given twice: {remedy}")
    return found


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted names as nested ones: {"data.seed": 3} is {"data": {"seed": 3}}."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return nested


def _is_option(word: str) -> bool:
    """Whether a word is an option and not a value, such as a negative number."""
    with contextlib.suppress(ValueError):
        float(word)
        return False
    return re.match(r"--?[A-Za-z_]|--$", word) is not None
