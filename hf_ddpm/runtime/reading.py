"""Read YAML and JSON that anyone may have written: `read_yaml(path)`, `read_json(path)`; a `ValueError` says why not.

A file is refused if it is too long or too deep, gives a key twice (the libraries keep the last one without a word), or
grows beyond measure through aliases.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MAX_YAML_BYTES = 2**20
MAX_JSON_BYTES = 16 * 2**20
MAX_NODES = 100_000
"""Scalars, lists and mappings of a YAML text, those behind each alias included."""
MAX_DEPTH = 50
_STANDARD_TAGS = "tag:yaml.org,2002:"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; ValueError: it is damaged or refused, OSError: it cannot be read."""
    return parse_yaml(read_text(path, MAX_YAML_BYTES))


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError: it is damaged or refused, OSError: it cannot be read."""
    return parse_json(read_text(path, MAX_JSON_BYTES))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text."""
    try:
        check_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(_no_yaml(error)) from None
    try:
        return yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(_no_yaml(error)) from None


def parse_json(text: str) -> Any:
    """The value of a JSON text."""
    try:
        return json.loads(text, object_pairs_hook=_mapping)
    except RecursionError:
        raise ValueError("not readable as JSON, its lists and mappings are nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not readable as JSON, {error}") from None


def check_yaml(text: str) -> None:
    """Raise a `ValueError` for a YAML text that is refused; `yaml.YAMLError`: it is not YAML."""
    if len(text) > MAX_YAML_BYTES:
        raise ValueError(f"it is longer than {MAX_YAML_BYTES:,} characters")
    sizes: dict[str | None, int] = {}  # nodes behind each anchor
    collections: list[_Collection] = []
    nodes = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionEndEvent):
            ended = collections.pop()
            sizes[ended.anchor] = nodes - ended.nodes_before
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        tag = getattr(event, "tag", None) or ""
        if tag.startswith(_STANDARD_TAGS):
            raise ValueError(f"it has the tag !!{tag.removeprefix(_STANDARD_TAGS)[:100]}, write the value without it")
        if collections:
            collections[-1].add(event)
        if isinstance(event, yaml.AliasEvent):
            if any(event.anchor == around.anchor for around in collections):
                raise ValueError(f"the alias *{event.anchor} stands within what it stands for")
            nodes += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            collections.append(_Collection(event.anchor, isinstance(event, yaml.MappingStartEvent), nodes))
            nodes += 1
        else:
            nodes += 1
            sizes[event.anchor] = 1
        if len(collections) > MAX_DEPTH:
            raise ValueError(f"its lists and mappings are nested more than {MAX_DEPTH} deep")
        if nodes > MAX_NODES:
            raise ValueError(f"it has more than {MAX_NODES:,} values, counting each where an alias repeats it")


@dataclass
class _Collection:
    """A list or mapping that has not ended yet."""

    anchor: str | None
    is_mapping: bool
    nodes_before: int
    keys: set[str] = field(default_factory=set)
    is_key_next: bool = True

    def add(self, event: yaml.NodeEvent) -> None:
        """Take the next item, key or value; a key that is there is a `ValueError`."""
        if self.is_mapping and self.is_key_next and isinstance(event, yaml.ScalarEvent):
            if event.value in self.keys:
                assert event.start_mark is not None, "it is that of a parsed text"
                raise ValueError(f"it gives {event.value[:100]!r} twice, in line {event.start_mark.line + 1} again")
            self.keys.add(event.value)
        self.is_key_next = not self.is_key_next


def _no_yaml(error: Exception) -> str:
    return f"not readable as YAML, {' '.join(str(error).split())[:300]}"


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise ValueError(f"it gives {key[:100]!r} twice")
        mapping[key] = value
    return mapping


def read_text(path: Path, most: int) -> str:
    """The UTF-8 text of a file of at most this many bytes; `ValueError`: it is another, `OSError`: it cannot be read."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is longer than {most:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text, {error.reason} at byte {error.start}") from None
