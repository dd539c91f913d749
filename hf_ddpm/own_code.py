"""Networks whose class is of a user: whether its file can travel with a saved model, and its class when that is loaded.

A file travels if it is one self-contained module: whoever loads the model runs it, anywhere, and reads it before that.
"""

from __future__ import annotations

import ast
import functools
import os
import sys
import sysconfig
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

TRUST = "HF_DDPM_TRUST_REMOTE_CODE"
"""Environment variable: 1 = run the code of a network that comes with a model, in every program."""
HARMLESS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Pass)


def trusts_code() -> bool:
    """Whether the user has allowed every program to run code that comes with a model."""
    return os.environ.get(TRUST, "") not in ("", "0")


def file_of(module: str) -> Path | None:
    """The file of an imported module; None = it has none, as a notebook."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None else Path(file).resolve()


def saved_name(module: str) -> str:
    """The name under which the file of a module travels, without its suffix: that of the file, also of a program."""
    file = file_of(module)
    return module.rpartition(".")[2] if file is None else file.stem


def reason_to_stay(module: str) -> str | None:
    """Why the file of an imported module cannot travel with a model; None = it can."""
    file = file_of(module)
    if file is None or file.suffix != ".py":
        return "it has no file"
    if any(file.is_relative_to(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib", "stdlib")):
        return f"it is part of the installed package {module.partition('.')[0]}"
    if file.stem in ("__init__", "__main__") or not file.stem.isidentifier() or _is_taken(file.stem):
        return f"its file cannot be called {file.name}: rename it"
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return f"{file.name} cannot be read"
    local = next((name for name in _imports(tree) if _is_local(name)), None)
    if local is not None:
        return f"{file.name} imports {local}, which is of no installed package"
    running = next((line.lineno for line in tree.body if _runs(line)), None)
    if running is not None:
        return f'line {running} of {file.name} would run when it is loaded: put it below if __name__ == "__main__"'
    return None


def imported_class(name: str, class_name: str) -> Any:
    """The class of a network whose file was saved as `name`, if this program has imported or defined it; else None.

    Nothing is imported, as that would run code because a model names it.
    """
    from diffusers import ModelMixin

    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("diffusers_modules."):  # code of another model, perhaps
            continue
        is_it = module_name.rpartition(".")[2] == name or (module_name == "__main__" and saved_name(module_name) == name)
        found = getattr(module, class_name, None) if is_it else None
        if isinstance(found, type) and issubclass(found, ModelMixin):
            return found
    return None


def explain_trust(name: str, class_name: str) -> str:
    """Why a network is not loaded whose class nobody has imported, and what to do."""
    return (
        f"its network is a {class_name}, whose code came with the model, unet/{name}.py: read it, then set {TRUST}=1 (in "
        f"Python: import {name} first, or give trust_remote_code=True)"
    )


def _is_taken(stem: str) -> bool:
    """Whether diffusers or this package would look elsewhere for a file of this name."""
    import diffusers

    from hf_ddpm.pipeline import OWN_NETWORKS

    return stem in OWN_NETWORKS or hasattr(diffusers.pipelines, stem)


def _imports(tree: ast.Module) -> list[str]:
    """Top-level names of all modules that a file imports, wherever it does; "." = a relative one."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append("." * node.level + (node.module or "").partition(".")[0])
    return names


def _is_local(name: str) -> bool:
    """Whether a module is neither of Python nor of an installed package."""
    known = name in sys.stdlib_module_names or name == "hf_ddpm"
    return not known and name not in _installed()


@functools.cache
def _installed() -> frozenset[str]:
    return frozenset(packages_distributions())


def _runs(line: ast.stmt) -> bool:
    """Whether a line of a module does more than to define something."""
    if isinstance(line, ast.Assign | ast.AnnAssign):
        return any(isinstance(node, ast.Call) for node in ast.walk(line))
    if isinstance(line, ast.Expr):
        return not isinstance(line.value, ast.Constant)  # a docstring
    if isinstance(line, ast.If):
        return ast.unparse(line.test) not in ("__name__ == '__main__'", "TYPE_CHECKING") or bool(line.orelse)
    return not isinstance(line, HARMLESS)
