"""Recipes, the YAML files of `--config`: `load_recipe(path)`; a recipe may say `extends: other.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hf_ddpm.commandline.values import Tree, is_null
from hf_ddpm.commandline.yaml_nodes import compose_yaml, construct_yaml, items_of
from hf_ddpm.runtime.reading import MAX_YAML_BYTES, read_text

PROGRAMS = ("train", "train_gan", "train_judge")
"""Values of the key `program` of a recipe."""
LENGTHS = {"max_train_steps": "steps", "num_train_epochs": "epochs"}
"""Options that give the length of a run, and its unit."""


def load_recipe(path: Path) -> dict[str, Any]:
    """Read the options of a recipe, merged key by key over those of the recipe it extends.

    Raises:
        ValueError: the file is missing, is not a YAML mapping, extends itself, or extends a recipe of another program.
    """
    return _plain(read_recipe(path))


def read_recipe(path: Path) -> Tree:
    """`load_recipe` with values as they are written."""
    return _read(Path(path))[0]


def recipe_program(path: Path) -> str | None:
    """Program of a recipe: its key `program`, or that of the recipe it extends; None = not stated.

    Raises:
        ValueError: see `load_recipe`.
    """
    return _read(Path(path))[1]


def merge(base: Tree, over: Tree) -> Tree:
    """Options of `base`, replaced key by key by those of `over`; a length of the run replaces one in the other unit.

    Raises:
        ValueError: the milestones of the learning rate count in the unit that is replaced.
    """
    lengths = {name for name in LENGTHS if not is_null(over.get(name))}
    replaced = [] if not lengths else [n for n in LENGTHS if n not in over and not is_null(base.get(n))]
    for name in replaced:
        base = {key: value for key, value in base.items() if key != name}
        optim, own = base.get("optim"), over.get("optim")
        milestones = optim.get("lr_milestones") if isinstance(optim, dict) else None
        if not is_null(milestones) and not (isinstance(own, dict) and "lr_milestones" in own):
            (length,) = lengths
            raise ValueError(
                f"--{length} replaces --{name}: give --optim.lr_milestones in {LENGTHS[length]} too, the recipe's are in "
                f"{LENGTHS[name]}"
            )
    return _merge(base, over)


def _read(path: Path, seen: tuple[Path, ...] = ()) -> tuple[Tree, str | None]:
    """Options and program of a recipe; `seen` are the recipes that extend it."""
    if path.resolve() in seen:
        raise ValueError(f"--config {seen[0]}: `extends` leads back to {path}, remove the cycle")
    try:
        node = compose_yaml(read_text(path, MAX_YAML_BYTES))
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}, give the path of a recipe") from None
    except ValueError as error:
        raise ValueError(f"--config {path}: {error}") from None
    options = None if node is None else _tree(node)
    if not isinstance(options, dict):
        raise ValueError(f"--config {path}: not a YAML mapping of option names to values")
    if "config" in options:
        raise ValueError(f"--config {path}: a recipe cannot have the key `config`, use `extends: other.yaml`")
    parent, program = (
        None if is_null(value) else _plain(value) for value in (options.pop(k, None) for k in ("extends", "program"))
    )
    if program not in (None, *PROGRAMS):
        raise ValueError(f"--config {path}: `program` is {program!r}, give one of {', '.join(PROGRAMS)}")
    if parent is None:
        return options, program
    extended, extended_program = _read(path.parent / str(parent), (*seen, path.resolve()))
    if None not in (program, extended_program) and program != extended_program:
        raise ValueError(f"--config {path}: its program is {program}, but {parent} is a recipe of {extended_program}")
    try:
        return merge(extended, options), program or extended_program
    except ValueError as error:
        raise ValueError(f"--config {path}: {error}") from None


def _merge(base: Tree, over: Tree) -> Tree:
    merged = dict(base)
    for key, value in over.items():
        before = merged.get(key)
        merged[key] = _merge(before, value) if isinstance(value, dict) and isinstance(before, dict) else value
    return merged


def _tree(node: yaml.Node) -> Tree | yaml.Node:
    if not isinstance(node, yaml.MappingNode):
        return node
    return {key: _tree(value) for key, value in items_of(node)}


def _plain(written: Tree | yaml.Node | None) -> Any:
    return {key: _plain(value) for key, value in written.items()} if isinstance(written, dict) else construct_yaml(written)
