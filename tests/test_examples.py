"""The examples of train_scripts/examples, each with a few steps, as a user runs them in an empty folder."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from hf_ddpm.hub.card import find_run
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.training import preview

EXAMPLES = Path(__file__).parents[1] / "train_scripts" / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an example as a program, with its number of steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preview, "MAX_INFERENCE_STEPS", 2)

    def start(name: str, steps: int) -> None:
        monkeypatch.setattr(sys, "argv", [name, str(steps)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return start


def test_own_dataset(run):
    run("own_dataset.py", 2)
    folder = RunFolder(Path("runs/own_dataset"))
    assert list(CFGDDPMPipeline.from_pretrained(folder.pipeline).id2label.values()) == [
        "top left", "top right", "bottom left", "bottom right"
    ]  # fmt: skip
    assert any("test_loss" in line for line in folder.read_metrics())
    run("own_dataset.py", 3)
    assert folder.last_checkpoint() == folder.checkpoint(3), "it continues"


def test_own_network(run, capsys):
    run("own_network.py", 2)
    assert f"step 2 of 2: samples in {Path('runs/own_network/samples/step-00000002.png')}" in capsys.readouterr().out
    assert Path("runs/own_network/pipeline/unet/own_network.py").read_text() == (EXAMPLES / "own_network.py").read_text()
    pipeline = CFGDDPMPipeline.from_pretrained("runs/own_network/pipeline", trust_remote_code=True)
    assert type(pipeline.unet).__name__ == "PatchMixer"


def test_own_loop(run, capsys):
    run("own_loop.py", 2)
    assert "step 2: loss " in capsys.readouterr().out
    assert CFGDDPMPipeline.from_pretrained("runs/own_loop").num_classes == 10
    assert find_run(Path("runs/own_loop")) is None
    code = (EXAMPLES / "own_loop.py").read_text().splitlines()
    assert sum(bool(line) for line in code[1:]) <= 27, "which the documentation calls 25 lines"


def test_the_notebook(tmp_path, monkeypatch):
    """Its cells in one process, one after the other; it holds no outputs that nobody has measured."""
    import matplotlib.pyplot

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preview, "MAX_INFERENCE_STEPS", 2)
    notebook = json.loads((EXAMPLES / "train_digits.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names: dict = {"__name__": "notebook"}
    first, *others = ("".join(cell["source"]) for cell in cells)
    assert "STEPS = 1000" in first
    exec(first.replace("STEPS = 1000", "STEPS = 2"), names)
    *lines, last = others[0].splitlines()
    exec("\n".join(lines), names)
    assert eval(last.partition("#")[0], names).size == (8 * 32, 10 * 32)
    exec(others[1], names)
    matplotlib.pyplot.close("all")
