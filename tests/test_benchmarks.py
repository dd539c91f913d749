"""The benchmarks run and print what they say; how fast anything is, no test asserts."""

import os
import runpy
import sys
import time
from pathlib import Path

import pytest

import hf_ddpm.training.loop  # noqa: F401  # before a benchmark can change it

BENCHMARKS = Path(__file__).parent / "benchmarks"
TRAINER = """
import sys, time
for step in range(1, 10_000):
    print(f"epoch 0: lr=1e-4, step={step}", file=sys.stderr, flush=True)
    time.sleep(0.02)
"""
"""Stands in for the training script of diffusers, which is no part of its package: it shows steps in the same way."""


@pytest.fixture
def benchmark(monkeypatch, capsys):
    """Run a benchmark with some options; the lines that it prints. It leaves the package as it was for other tests."""

    def run(name: str, *options: object) -> list[str]:
        monkeypatch.syspath_prepend(BENCHMARKS)
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        before = callables()
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
        after = callables()
        assert [name for name, value in before.items() if after.get(name) is not value] == [], "the benchmark replaces them"
        return capsys.readouterr().out.splitlines()

    return run


def callables() -> dict[str, object]:
    """The functions and classes of the package's modules, by their full names."""
    modules = [(name, vars(module)) for name, module in sys.modules.items() if name.startswith("hf_ddpm")]
    return {f"{module}.{name}": value for module, names in modules for name, value in names.items() if callable(value)}


@pytest.fixture
def measuring(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import measuring

    return measuring


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_drawing(benchmark):
    machine, _, header, _, one, two = benchmark("drawing", "--processes", 1, 2, "--rounds", 2, "--batch_size", 3)
    assert "torch" in machine and machine.endswith("images of 3 x 32 x 32, 3 of each process")
    assert cells(header)[:2] == ["processes", "total batch"]
    assert cells(one)[:2] == ["1", "3"] and cells(two)[:2] == ["2", "6"]


def test_loader(benchmark):
    printed = benchmark("loader", "--num_images=200", "--num_files=20", "--rounds=1", "--num_threads=2")
    rows = {cells(line)[0]: cells(line)[1:] for line in printed if line.startswith("|")}
    assert float(rows["read, scale, flip"][0].replace(",", "")) > 0
    assert rows["PNG, 32 x 32"][-1] == "one" and rows["JPEG, 500 x 375"][-1] == "threads"
    assert rows["labels (int64)"] == ["0.0", "8.0"] and rows["1,000,000"][1] == "8.0"
    assert rows["file of pixels, mapped"][1] == "12,292.0"


def test_host_share(benchmark):
    printed = benchmark("host_share", "--preset=digits8", "--batch_size=2", "--steps=2", "--num_threads=1")
    start = next(i for i, line in enumerate(printed) if line.startswith("| part of a step"))
    rows = {cells(line)[0]: cells(line)[1:] for line in printed[start + 2 :]}
    assert rows["whole step"][1] == "100.00%" and len(rows) == 6
    assert all(float(ms) >= 0 for ms, _ in rows.values())


TINY = ("--preset=digits8", "--batch_size=1", "--num_threads=1", "--rounds=1")


def test_equal_distance_by_the_exact_score(benchmark):
    options = ("--distance=0.1", "--schedulers", "dpmsolver++", "ddpm", "--max_steps=5")
    *_, quick, slow = benchmark("equal_distance", *options, *TINY)
    assert cells(quick)[:2] == ["`dpmsolver++`", "4"] and float(cells(quick)[3]) > 0
    assert cells(slow)[:2] == ["`ddpm`", "5"]


def test_equal_distance_of_a_model(benchmark, tiny_run, tiny_judge):
    model = (f"--model={tiny_run / 'pipeline'}", f"--features=judge:{tiny_judge}", "--num_images=20")
    *_, row = benchmark("equal_distance", *model, "--distance=1e6", "--schedulers=ddim", *TINY)
    assert cells(row)[:2] == ["`ddim`", "2"] and float(cells(row)[3]) > 0


def test_inpainting(benchmark, tiny_run, tiny_judge):
    model = (f"--model={tiny_run / 'pipeline'}", f"--judge={tiny_judge}", "--source=digits", "--num_images=3")
    few = ("--halves=top", "--num_inference_steps=3", "--jump_length=1", "--jump_n_sample=2")
    printed = benchmark("inpainting", *model, *few)
    rows = [cells(line) for line in printed if line.startswith(("| none", "| top"))]
    assert [row[1] for row in rows] == ["", "given, s = 1.5", "not given", ""]
    assert all(row[4] == "0" for row in rows), "known pixels stay"


def test_posthoc_average(benchmark, tiny_options):
    few = ("--max_train_steps=8", "--ema.snapshot_every_steps=1")
    printed = [line for line in benchmark("posthoc_average", *tiny_options, *few) if " snapshots, length " in line]
    assert len(printed) == 18 and {line.split()[0] for line in printed} == {"8", "4", "2"}
    tracked = next(line for line in printed if line.startswith("8 snapshots, length 0.05: "))
    assert float(tracked.split()[5]) < 1e-3, "a length that was tracked"


def test_finetuning(benchmark, tiny_run, tiny_judge, tmp_path):
    few = ("--steps", 1, "--num_images=20", "--num_inference_steps=2", "--min_judge_accuracy=0", "--num_threads=1")
    model = (f"--model={tiny_run / 'pipeline'}", f"--judge={tiny_judge}", f"--output_dir={tmp_path}")
    printed = benchmark("finetuning", *model, *few, "--mixed_precision=fp32")
    rows = [cells(line) for line in printed[printed.index(next(it for it in printed if it.startswith("| training"))) :]]
    assert rows[0][:6] == ["training", "steps", "learning rate", "start", "class_accuracy", "fd_judge"]
    assert [row[3] for row in rows[2:]] == ["the model", "random weights", "real images"]
    assert all(row[4] for row in rows[2:])


def test_a_training_program_stands_still_but_for_its_turn(measuring, tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    output = tmp_path / "output.txt"
    with measuring.TrainingProgram([str(script)], output, output, rb"step=(\d+)", {}) as program:
        taken = measuring.take_turns({"it": program}, rounds=2, seconds=0.1).seconds["it"]
        assert len(taken) == 2 and min(taken) > 0.015
        time.sleep(0.05)  # for what was on its way
        before = output.stat().st_size
        time.sleep(0.2)
        assert output.stat().st_size == before
    with pytest.raises(ProcessLookupError):
        os.kill(program.process.pid, 0)


def test_against_diffusers(benchmark, tmp_path):
    script = tmp_path / "train_unconditional.py"
    script.write_text(TRAINER)
    *_, theirs, ours = benchmark("against_diffusers", f"--script={script}", "--seconds=0.1", *TINY)
    assert cells(theirs)[0] == "train_unconditional.py" and cells(theirs)[2] == "1.00"
    assert cells(ours)[0] == "train.py" and float(cells(ours)[1]) > 0


def test_a_script_that_does_not_train_is_named_with_its_message(benchmark, tmp_path, capsys):
    script = tmp_path / "train_unconditional.py"
    script.write_text("raise ImportError('This example requires a minimum version of 9.9')")
    with pytest.raises(SystemExit) as stopped:
        benchmark("against_diffusers", f"--script={script}", *TINY)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "train_unconditional.py takes no steps: ImportError: This example requires a minimum version of 9.9" in message
    assert "take that of the installed version: https://raw.githubusercontent.com/huggingface/diffusers/v" in message


def test_step_variants(benchmark):
    printed = benchmark("step_variants", *TINY)
    rows = [cells(line) for line in printed if line.startswith("| fp32") or line.startswith("| bf16")]
    assert len(rows) == 6 and rows[0][2] == "1.00" and all(float(speed) > 0 for _, speed, _ in rows)


@pytest.mark.slow  # starts three runs
def test_auto_choice(benchmark):
    options = ("--option=memory_format", "--presets=digits8", "--neighbours=0", "--batch_size=2")
    *_, row = benchmark("auto_choice", *options, "--rounds=1", "--seconds=0.1")
    assert cells(row)[:2] == ["digits8", "0"] and cells(row)[5] in ("contiguous", "channels_last")


def test_startup(benchmark):
    machine, *_, header, _, row = benchmark("startup", "--rounds", 1, "--only", "unknown scheduler")
    assert "torch" in machine and cells(header)[0] == "seconds until"
    assert cells(row)[0] == "an unknown scheduler" and float(cells(row)[1]) > 0
