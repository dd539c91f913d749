"""`import hf_ddpm` shows every public name and loads none of them before it is used."""

import ast
import pydoc
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

import hf_ddpm
from hf_ddpm.evaluation.options import EvaluationConfig
from hf_ddpm.training.options import GANConfig, JudgeConfig, TrainConfig


def test_type_checkers_see_the_same_names_from_the_same_modules():
    tree = ast.parse(Path(hf_ddpm.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert {alias.name: node.module for node in block.body for alias in node.names} == hf_ddpm._HOMES
    assert all(alias.asname == alias.name for node in block.body for alias in node.names)  # which exports it


@pytest.mark.parametrize("name", hf_ddpm.__all__)
def test_a_public_name_is_there(name):
    assert getattr(hf_ddpm, name) is not None and name in dir(hf_ddpm)


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="'hf_ddpm' has no attribute 'trian'"):
        hf_ddpm.trian  # noqa: B018


def groups(config_class: type) -> Iterator[type]:
    for kind in get_type_hints(config_class).values():
        if is_dataclass(kind):
            yield kind
            yield from groups(kind)


@pytest.mark.parametrize("program", [TrainConfig, GANConfig, JudgeConfig, EvaluationConfig])
def test_options_can_be_built_from_public_names_alone(program):
    for kind in (program, *groups(program)):
        assert getattr(hf_ddpm, kind.__name__) is kind


def test_help_lists_the_public_names():
    text = pydoc.render_doc(hf_ddpm, renderer=pydoc.plaintext)
    assert [name for name in hf_ddpm.__all__ if name not in text] == ["__version__"], "shown as VERSION"
