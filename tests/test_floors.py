"""Imports only go down: the floor table of the house, read from the syntax tree of every module and script."""

import ast
import functools
import graphlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PACKAGE, SCRIPTS = "hf_ddpm", "train_scripts"

FLOORS = {
    "config": 0, "image_shape": 0, "cli": 0, "commandline": 0, "text": 0, "markdown": 0, "own_code": 0, "results": 0,
    "tuning_results": 0,
    "run_folder": 0, "runtime": 0, "metrics": 0, "pipeline": 0, "editing_pipeline": 0, "dcgan_pipeline": 0, "saved_model": 0,
    "first_checks": 0,
    "models": 1, "diffusion": 1, "data": 1,
    "schedulers": 2, "sampling": 2, "sample_folder": 2, "heldout_metrics": 2, "figures": 2, "editing": 2, "hub": 2,
    "web": 2,
    "training": 3, "evaluation": 3, "doctor": 3,
    "experiments": 4, "report": 4,
    "programs": 5, "__main__": 5,
}  # fmt: skip
TOOLS_OF = {
    "results": {"runtime"},
    "tuning_results": {"results", "markdown", "runtime"},
    "run_folder": {"runtime"},
    "commandline": {"config", "runtime"},
    "cli": {"commandline", "runtime", "text"},
    "markdown": {"text"},
    "saved_model": {"runtime", "pipeline", "dcgan_pipeline"},
    "first_checks": {"config", "commandline", "runtime", "run_folder"},
    "own_code": {"pipeline"},
    "sampling": {"schedulers"},
    "figures": {"schedulers", "sampling"},
    "sample_folder": {"sampling", "figures"},
    "editing": {"sampling", "figures"},
    "hub": {"schedulers", "sampling", "figures"},
    "web": {"schedulers", "sampling"},
}
TAKEN_ALONG = {"hf_ddpm/editing_pipeline.py": {"", "pipeline"}}
"""Relative imports, by which diffusers knows the files that travel with this one; "" = `from . import pipeline`."""
HEAVY = {"accelerate", "datasets", "diffusers", "gradio", "matplotlib", "sklearn", "torch", "transformers"}


@dataclass(frozen=True)
class Import:
    path: Path  # of the importing file, from the root of the tree
    line: int
    target: str  # full name of the imported module
    inside: bool  # in a function, so that it costs nothing at import time
    typing_only: bool  # under `if TYPE_CHECKING`
    from_root: bool  # `from hf_ddpm import X`
    relative: bool

    @property
    def module(self) -> str:
        return ".".join(self.path.with_suffix("").parts).removesuffix(".__init__")

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.target}"


def room(module: str) -> str:
    """Room of a module of the package; "" = the package root."""
    return (module + ".").split(".")[1]


def sources(root: Path) -> list[Path]:
    return sorted([*(root / PACKAGE).rglob("*.py"), *(root / SCRIPTS).rglob("*.py")])


def read_imports(root: Path, path: Path) -> list[Import]:
    found = []

    def visit(node: ast.AST, inside: bool, typing_only: bool) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inside = True
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, inside, True)
            for child in node.orelse:
                visit(child, inside, typing_only)
            return
        for target, from_root, relative in _targets(root, node):
            where = path.relative_to(root)
            found.append(Import(where, node.lineno, target, inside, typing_only, from_root, relative))
        for child in ast.iter_child_nodes(node):
            visit(child, inside, typing_only)

    visit(_parse(path.read_text(encoding="utf-8")), False, False)
    return found


@functools.cache
def _parse(code: str) -> ast.Module:
    return ast.parse(code)


def _targets(root: Path, node: ast.AST) -> Iterator[tuple[str, bool, bool]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, alias.name == PACKAGE, False
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        for alias in node.names:
            full = f"{base}.{alias.name}"
            yield full if _is_module(root, full) else base, base == PACKAGE, node.level > 0


def _is_module(root: Path, name: str) -> bool:
    path = root.joinpath(*name.split("."))
    return name.startswith(PACKAGE + ".") and (path.with_suffix(".py").is_file() or path.is_dir())


def read_tree(root: Path) -> list[Import]:
    return [found for path in sources(root) for found in read_imports(root, path)]


def floor_violations(root: Path) -> list[str]:
    wrong = []
    for found in read_tree(root):
        top = found.target.split(".")[0]
        if found.relative and found.target in TAKEN_ALONG.get(str(found.path), ()):
            continue
        if found.relative:
            wrong.append(f"{found} by a relative name")
        elif top not in (PACKAGE, SCRIPTS, "tests"):
            continue
        elif top != PACKAGE:
            wrong.append(f"{found}, which nobody may")
        elif found.path.parts[0] == PACKAGE and found.module != PACKAGE:
            if found.from_root:
                wrong.append(f"{found} from the package root")
            elif not _may_import(room(found.module), room(found.target)):
                wrong.append(f"{found}, against the floors")
    return wrong


def _may_import(user: str, used: str) -> bool:
    if user == used:
        return True
    if user not in FLOORS or used not in FLOORS:
        return False
    if used in TOOLS_OF.get(user, ()):
        return True
    return FLOORS[used] < FLOORS[user]


def unplanned_rooms(root: Path) -> list[str]:
    rooms = {path.relative_to(root / PACKAGE).parts[0].removesuffix(".py") for path in (root / PACKAGE).rglob("*.py")}
    return sorted(rooms - set(FLOORS) - {"__init__"})


def import_cycle(root: Path) -> list[str]:
    graph: dict[str, set[str]] = {}
    for found in read_tree(root):
        if found.target.startswith(PACKAGE) and found.module != PACKAGE:
            graph.setdefault(found.module, set()).add(found.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def foreign_imports(root: Path, path: str, allowed: set[str]) -> list[str]:
    imports = read_imports(root, root / path)
    return [str(found) for found in imports if found.target.split(".")[0] not in allowed | sys.stdlib_module_names]


def heavy_imports_of_doors(root: Path) -> list[str]:
    """Heavy packages that a script or `hf-ddpm` loads before its options are parsed, and the module that loads them."""
    by_module: dict[str, list[Import]] = {}
    for found in read_tree(root):
        if not (found.inside or found.typing_only):
            by_module.setdefault(found.module, []).append(found)
    heavy = []
    for door in (f"{PACKAGE}.__main__", *(f"{SCRIPTS}.{path.stem}" for path in sorted((root / SCRIPTS).glob("*.py")))):
        waiting, seen = [door], set()
        while waiting:
            module = waiting.pop()
            if module in seen:
                continue
            seen.add(module)
            for found in by_module.get(module, []):
                if found.target.split(".")[0] in HEAVY:
                    heavy.append(f"{door}: {found}")
                parts = found.target.split(".")
                waiting += [".".join(parts[: end + 1]) for end in range(len(parts))]
    return heavy


def test_imports_only_go_down():
    assert floor_violations(REPO) == []


def test_every_room_is_on_the_plan():
    assert unplanned_rooms(REPO) == []


def test_there_is_no_import_cycle():
    assert import_cycle(REPO) == []


@pytest.mark.parametrize("path", ["hf_ddpm/pipeline.py", "hf_ddpm/editing_pipeline.py", "hf_ddpm/dcgan_pipeline.py"])
def test_a_pipeline_needs_torch_and_diffusers_only(path):
    assert foreign_imports(REPO, path, {"torch", "diffusers"} | TAKEN_ALONG.get(path, set())) == []


def test_scripts_load_nothing_heavy_before_the_options_are_parsed():
    assert heavy_imports_of_doors(REPO) == []


def test_importing_the_package_loads_neither_torch_nor_diffusers():
    program = "import sys, hf_ddpm; print([name for name in ('torch', 'diffusers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_script_hides_an_installed_package():
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    declared = {re.match(r"[\w-]+", requirement)[0].replace("-", "_") for requirement in needed} | {"evaluate"}
    for script in (REPO / SCRIPTS).glob("*.py"):
        assert script.stem not in declared
        assert importlib.util.find_spec(script.stem) is None, f"{script.name} hides an installed package"


# The checker itself


@pytest.fixture
def house(tmp_path) -> Path:
    for name in (PACKAGE, SCRIPTS):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def plant(house: Path, path: str, code: str) -> None:
    file = house / path
    file.parent.mkdir(exist_ok=True)
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(f"{before}\n{code}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("hf_ddpm/config.py", "import hf_ddpm.cli"),
        ("hf_ddpm/pipeline.py", "from hf_ddpm.config import require"),
        ("hf_ddpm/models/unet.py", "from hf_ddpm.diffusion import objective"),
        ("hf_ddpm/data/batches.py", "def late():\n    from hf_ddpm.sampling import generate"),
        ("hf_ddpm/schedulers.py", "from hf_ddpm.sampling import generate"),
        ("hf_ddpm/sampling.py", "if TYPE_CHECKING:\n    from hf_ddpm.figures.grids import image_grid"),
        ("hf_ddpm/figures/grids.py", "import hf_ddpm.hub.card"),
        ("hf_ddpm/training/optim.py", "from hf_ddpm.evaluation.protocol import evaluate"),
        ("hf_ddpm/evaluation/protocol.py", "from hf_ddpm.training.loop import train"),
        ("hf_ddpm/training/loop.py", "from hf_ddpm.experiments.sweep import sweep"),
        ("hf_ddpm/training/optim.py", "from hf_ddpm import sampling"),
        ("hf_ddpm/training/optim.py", "import hf_ddpm"),
        ("hf_ddpm/training/optim.py", "from . import loop"),
        ("hf_ddpm/training/optim.py", "import train_scripts.train"),
        ("train_scripts/sample.py", "from train_scripts import train"),
    ],
)
def test_the_checker_sees_a_planted_import(house, path, code):
    before = floor_violations(house)
    plant(house, path, code)
    (new,) = set(floor_violations(house)) - set(before)
    assert new.startswith(path)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("hf_ddpm/hub/card.py", "from hf_ddpm.figures.grids import image_grid"),
        ("hf_ddpm/figures/strips.py", "from hf_ddpm.sampling import generate"),
        ("hf_ddpm/training/optim.py", "from hf_ddpm.metrics.frechet import frechet_distance"),
        ("hf_ddpm/experiments/sweep.py", "from hf_ddpm.training.loop import train"),
        ("train_scripts/sample.py", "from hf_ddpm.training.loop import train"),
    ],
)
def test_the_checker_lets_imports_go_down(house, path, code):
    before = floor_violations(house)
    plant(house, path, code)
    assert floor_violations(house) == before


def test_the_checker_sees_a_planted_cycle_room_package_and_heavy_import(house):
    plant(house, "hf_ddpm/diffusion/objective.py", "def late():\n    import hf_ddpm.diffusion.schedules")
    assert import_cycle(house) == []
    plant(house, "hf_ddpm/diffusion/schedules.py", "from hf_ddpm.diffusion import objective")
    assert "hf_ddpm.diffusion.objective" in import_cycle(house)
    plant(house, "hf_ddpm/utils.py", "")
    assert unplanned_rooms(house) == ["utils"]
    plant(house, "hf_ddpm/pipeline.py", "import numpy")
    assert foreign_imports(house, "hf_ddpm/pipeline.py", {"torch", "diffusers"})
    plant(house, "hf_ddpm/config.py", "import torch")
    assert any("config.py" in found for found in heavy_imports_of_doors(house))
