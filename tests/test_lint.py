"""The whole project passes ruff and mypy, so that continuous integration fails where they do."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = {
    "ruff check": ["ruff", "check", "--no-cache", "."],
    "ruff format": ["ruff", "format", "--no-cache", "--check", "."],
    "mypy": ["mypy"],
}


def run(tool: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *TOOLS[tool], *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("tool", TOOLS)
def test_the_project_is_clean(tool, tmp_path):
    options = ["--cache-dir", str(tmp_path)] if tool == "mypy" else []
    done = run(tool, ROOT, *options)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("tool", "code"),
    [
        ("ruff check", "import os\n"),
        ("ruff format", "x = [1,2]\n"),
        ("mypy", 'def length(text: str) -> int:\n    return text + "."\n'),
    ],
)
def test_a_fault_is_found(tool, code, tmp_path):
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8")
    package = tmp_path / "hf_ddpm"
    package.mkdir()
    (package / "__init__.py").write_text(code, encoding="utf-8")
    assert run(tool, tmp_path).returncode == 1
