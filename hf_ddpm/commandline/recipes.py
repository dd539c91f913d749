"""Recipes, the YAML files of `--config`: `load_recipe(path)`; a recipe may say `extends: other.yaml`.

Those of this package have names: `digits` is its digits.yaml, unless there is a file of that name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.commandline.names import nearest
from hf_ddpm.commandline.values import Tree, is_null
from hf_ddpm.commandline.yaml_nodes import compose_yaml, construct_yaml, items_of
from hf_ddpm.runtime.reading import MAX_YAML_BYTES, read_text

PROGRAMS = ("train", "distill", "train_gan", "train_judge")
"""Values of the key `program` of a recipe."""
PACKAGE = Path(__file__).parents[1]
RECIPE_FOLDERS = (PACKAGE / "recipes", PACKAGE.parent / "train_scripts" / "recipes")
"""Where the recipes of the package are when it is installed, and in a checkout."""
LENGTHS = {"max_train_steps": "steps", "num_train_epochs": "epochs"}
"""Options that give the length of a run, and its unit."""


def load_recipe(path: str | Path) -> dict[str, Any]:
    """Read the options of a recipe, merged key by key over those of the recipe it extends.

    Raises:
        ValueError: there is no such recipe, or it is not a YAML mapping, extends itself or a recipe of another program.
    """
    return _plain(read_recipe(path))


def read_recipe(path: str | Path) -> Tree:
    """`load_recipe` with values as they are written."""
    return _read(find_recipe(path))[0]


def recipe_program(path: str | Path) -> str | None:
    """Program of a recipe: its key `program`, or that of the recipe it extends; None = not stated.

    Raises:
        ValueError: see `load_recipe`.
    """
    return _read(find_recipe(path))[1]


def find_recipe(name: str | Path, folder: Path = Path()) -> Path:
    """The file of a recipe: a path from `folder`, or, if there is no such file, a recipe of this package by its name."""
    path = folder / name
    return path if os.path.isfile(path) else named_recipes().get(str(name), path)


def missing_recipe_hint(name: str | Path) -> str:
    """What to do about a recipe that there is not."""
    near = nearest(Path(name).stem, named_recipes())
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"give the path of a recipe, or a name that {as_typed('hf-ddpm recipes')} lists"


def named_recipes() -> dict[str, Path]:
    """The recipes of this package, by their names."""
    return {path.stem: path for folder in RECIPE_FOLDERS for path in sorted(folder.glob("*.yaml"))}


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
        remedy = missing_recipe_hint(path) if isinstance(error, FileNotFoundError) else "give the path of a recipe"
        raise ValueError(f"--config {path}: {error.strerror}, {remedy}") from None
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
    extended, extended_program = _read(find_recipe(str(parent), path.parent), (*seen, path.resolve()))
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
