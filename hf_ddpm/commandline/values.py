"""Text as the value of an option, by its annotation: on a command line and in a recipe alike.

Text stays as written where an option takes text: `[no, 007, 1e3]` are three names.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from hf_ddpm.commandline.names import nearest
from hf_ddpm.commandline.options import Option
from hf_ddpm.commandline.yaml_nodes import compose_yaml, construct_yaml, items_of
from hf_ddpm.config import name_of

Tree = dict[str, "Tree | yaml.Node"]
"""Nested options whose values are still text."""

_NULL = ("null", "None", "~", "")
"""Unquoted text that means None where an option may be None."""
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_MISREAD = re.compile(r"yes|no|on|off|[-+]?0[\d_]+", re.IGNORECASE)
"""Text of a free value that YAML takes for true, false or an octal number."""


class _Unreadable(Exception):
    """The text is not of the kind that was asked for."""


def read_words(option: Option, words: Sequence[str]) -> yaml.Node:
    """The words after an option on the command line as a node.

    A list is written as words or in brackets, `3 7` or `'[3, 7]'`; numbers also with commas, `3,7`.

    Raises:
        ValueError: the number of words does not fit, or brackets are not readable.
    """
    if not words and option.is_flag:
        return _scalar("true")
    if not words:
        raise ValueError(f"--{option.name} needs a value")
    text = " ".join(words)
    in_brackets = option.is_list and text.startswith("[") and text.endswith("]")
    if in_brackets or (option.is_free and len(words) == 1):
        try:
            return compose_yaml(text) or _scalar("")
        except ValueError as error:
            raise ValueError(f"--{option.name} has a value that cannot be read: {error}") from None
    if option.is_list and text not in _NULL and not (option.may_be_one and len(words) == 1 and "," not in text):
        if not _has_text(option.kind):
            words = [part for word in words for part in word.split(",") if part]
        return yaml.SequenceNode("tag:yaml.org,2002:seq", [_scalar(word) for word in words])
    if len(words) > 1:
        recipes = [word for word in words[1:] if word.endswith((".yaml", ".yml"))]
        remedy = f"a recipe is given as --config {recipes[0]}" if recipes else "put a value with spaces in quotes"
        raise ValueError(f"--{option.name} takes one value, but {len(words)} are given ({', '.join(words)}): {remedy}")
    return _scalar(words[0])


def read_value(option: Option, written: Tree | yaml.Node, name: str | None = None) -> Any:
    """The value of an option; `name` is that of a part of a free option.

    Raises:
        ValueError: "--option is value: expected kind".
    """
    name = name or option.name
    if name != option.name or (option.is_free and not isinstance(written, yaml.ScalarNode)):
        return _free(written, name)
    try:
        return _read(written, option.kind)
    except _Unreadable:
        near = [] if isinstance(written, dict) else _near_choices(written, list(_literals(option.kind)))
        hint = f", did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"--{name} is {_shown(written)}: expected {name_of(option.kind)}{hint}") from None


def is_null(written: Tree | yaml.Node | None) -> bool:
    """Whether this text means None where an option may be None."""
    return written is None or (isinstance(written, yaml.ScalarNode) and not written.style and written.value in _NULL)


def _scalar(text: str) -> yaml.ScalarNode:
    """A word of the command line, which is text even where YAML would read an empty value."""
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style="'" if text in ("", "~") else None)


def _read(node: Tree | yaml.Node, kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if NoneType in arguments and is_null(node):
            return None
        for other in sorted((a for a in arguments if a is not NoneType), key=lambda a: a in (str, Path)):
            exact = other is int and str in arguments
            with contextlib.suppress(_Unreadable):
                return _read_exact_int(node) if exact else _read(node, other)
        raise _Unreadable
    if origin in (list, tuple):
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        kinds = arguments if origin is tuple else arguments * len(items)
        if len(kinds) != len(items) or isinstance(node, yaml.MappingNode):
            raise _Unreadable
        return origin(_read(item, item_kind) for item, item_kind in zip(items, kinds, strict=True))
    if not isinstance(node, yaml.ScalarNode):
        raise _Unreadable
    return _read_text(node.value, kind)


def _read_exact_int(node: Tree | yaml.Node) -> int:
    """An integer that is written as Python writes it, so that 007 and '7' remain text."""
    if isinstance(node, yaml.ScalarNode) and node.style is None and re.fullmatch(r"0|-?[1-9]\d*", node.value):
        return int(node.value)
    raise _Unreadable


def _read_text(text: str, kind: Any) -> Any:
    if kind in (str, Path):
        return kind(text)
    if get_origin(kind) is Literal:
        for choice in get_args(kind):
            if text == str(choice):
                return choice
    elif kind is bool:
        if text.lower() in _BOOLS:
            return _BOOLS[text.lower()]
    elif kind is int:
        if re.fullmatch(r"[-+]?\d+", text):
            return int(text)
    elif kind is float:
        with contextlib.suppress(ValueError):
            if "_" not in text:
                return float(re.sub(r"^([-+]?)\.(?=[in])", r"\1", text.lower()))  # YAML writes .inf
    raise _Unreadable


def _free(written: Tree | yaml.Node, name: str) -> Any:
    """A value whose kind follows from how it is written, as in YAML."""
    if isinstance(written, dict | yaml.MappingNode):
        items = written.items() if isinstance(written, dict) else items_of(written)
        return {key: _free(value, f"{name}.{key}") for key, value in items}
    for node in _scalars(written):
        if node.style is None and _MISREAD.fullmatch(node.value):
            remedy = "write true or false, or a number without zeros before it, or put it in quotes"
            raise ValueError(f"--{name} is {node.value}: {remedy}")
    return construct_yaml(written)


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    else:
        for part in node.value:
            for inner in part if isinstance(part, tuple) else (part,):
                yield from _scalars(inner)


def _has_text(kind: Any) -> bool:
    """Whether text of any kind is a value, also within a list."""
    return kind in (str, Path) or any(_has_text(inner) for inner in get_args(kind) if get_origin(kind) is not Literal)


def _literals(kind: Any) -> Iterator[str]:
    """Every choice of an annotation, also within a list, as text."""
    for inner in get_args(kind):
        if get_origin(kind) is Literal:
            yield str(inner)
        else:
            yield from _literals(inner)


def _near_choices(node: yaml.Node, choices: list[str]) -> list[str]:
    """The choices that the first wrong value of a node may have meant."""
    wrong = [scalar.value for scalar in _scalars(node) if scalar.value not in choices]
    return nearest(wrong[0], choices) if wrong else []


def _shown(written: Tree | yaml.Node) -> str:
    if isinstance(written, dict):
        return f"a group ({', '.join(written)})"
    if isinstance(written, yaml.ScalarNode):
        return written.value if re.fullmatch(r"\S+", written.value) else repr(written.value)
    if isinstance(written, yaml.SequenceNode):
        return f"[{', '.join(map(_shown, written.value))}]"
    return repr(construct_yaml(written))
