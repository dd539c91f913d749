"""YAML whose values are still text: `compose_yaml(text)` gives nodes, `construct_yaml(node)` a plain value.

A number such as 1e-3, which YAML 1.1 takes for text, is a number, here and in what `dump_yaml` writes.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from hf_ddpm.runtime.reading import check_yaml

_FLOAT_TAG = "tag:yaml.org,2002:float"
_FLOAT = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$")


def compose_yaml(text: str) -> yaml.Node | None:
    """The root node of a text (None = it is empty); a `ValueError` says why it is refused or not readable."""
    try:
        check_yaml(text)
        node: yaml.Node | None = yaml.compose(text, _Loader)
        construct_yaml(node)  # checks tags and keys
    except yaml.YAMLError as error:
        raise ValueError(f"not readable as YAML, {' '.join(str(error).split())[:300]}") from None
    return node


def construct_yaml(node: yaml.Node | None) -> Any:
    """The plain value of a node."""
    return None if node is None else _Loader("").construct_document(node)


def items_of(node: yaml.MappingNode) -> list[tuple[str, yaml.Node]]:
    """Keys and values of a mapping, those merged into it by `<<` included."""
    _Loader("").flatten_mapping(node)
    return [(str(key.value), value) for key, value in node.value]


def dump_yaml(options: Any) -> str:
    """Write plain values so that reading gives equal ones."""
    return yaml.dump(options, Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _FLOAT_TAG]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _kind.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))
