"""What programs import: nothing heavy for help and checks, and of the heavy libraries only what they use."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ddpm.first_checks import needs_scipy
from hf_ddpm.runtime.libraries import _hidden, few_collections, load_libraries

SCRIPTS = Path(__file__).parents[2] / "train_scripts"
# Programs, and what each requires before it prints its options.
REQUIRED = {
    "train": [f"--config={SCRIPTS}/recipes/digits.yaml", "--output_dir=new"],
    "distill": [f"--config={SCRIPTS}/recipes/distill_digits.yaml", "--output_dir=new"],
    "train_gan": [f"--config={SCRIPTS}/recipes/gan_digits.yaml", "--output_dir=new"],
    "train_judge": [f"--config={SCRIPTS}/recipes/judge_digits.yaml", "--output_dir=new"],
    "sample": ["--model=model", "--output_dir=new"],
    "evaluate_model": ["--model=model", "--features=inception", "--output=new.json"],
    "sweep": ["--model=model", "--features=inception", "--output_dir=new", "--grid.guidance_scale=[1, 2]"],
    "push_to_hub": ["--model=model", "--repo_id=me/it"],
    "write_card": ["--model=model"],
    "doctor": ["--run=new"],
}
RUN = f"""
import contextlib, importlib.util, io, json, sys
def run(program, *args):
    spec = importlib.util.spec_from_file_location(program, {str(SCRIPTS)!r} + f"/{{program}}.py")
    module = sys.modules[program] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            module.main(list(args))
        except SystemExit as stopped:
            assert not stopped.code, (program, args)
for command in json.loads(sys.argv[1]):
    run(*command)
names = "torch diffusers datasets transformers torchvision scipy accelerate sklearn pandas matplotlib".split()
print(json.dumps([name for name in names if name in sys.modules]))
"""


def imports_of(commands: list[list[str]], folder: Path) -> list[str]:
    """The heavy packages that programs have imported, one after the other in one process."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, json.dumps(commands)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_and_options_are_printed_without_a_heavy_import(tmp_path):
    commands = [["figures", "--help"], ["figures", "reverse", "--help", "all"]]
    commands += [["edit", "--help"], ["edit", "inpaint", "--help", "all"]]
    for program, required in REQUIRED.items():
        commands += [[program, "--help"], [program, "--help", "all"], [program, *required, "--print_config"]]
    assert imports_of(commands, tmp_path) == []


def test_sampling_imports_only_what_it_uses(tiny_pipeline, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    options = ["--model=model", "--output_dir=new", "--num_images=1", "--num_inference_steps=2"]
    assert imports_of([["sample", *options]], tmp_path) == ["torch", "diffusers", "accelerate"]
    assert len(list((tmp_path / "new").glob("*.png"))) == 1


@pytest.mark.parametrize(
    ("index", "scheduler", "needed"),
    [
        ({"scheduler": ["diffusers", "DDPMScheduler"]}, None, False),
        ({"scheduler": ["diffusers", "DDPMScheduler"]}, "dpmsolver++", False),
        ({"scheduler": ["diffusers", "DDPMScheduler"]}, "lms", True),
        ({"scheduler": ["diffusers", "LMSDiscreteScheduler"]}, None, True),
        ({"generator": ["dcgan", "DCGANGenerator"]}, None, False),
        ({}, None, True),
    ],
)
def test_scipy_is_needed_by_few_schedulers(index, scheduler, needed, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert needs_scipy(str(tmp_path), scheduler) is needed
    assert needs_scipy("a/model-of-the-hub", scheduler)


def test_a_hidden_package_is_back_afterwards_and_an_imported_one_is_not_touched():
    before = set(sys.modules)
    with _hidden("json", "antigravity"):
        assert importlib.util.find_spec("json") is not None
        assert importlib.util.find_spec("antigravity") is None
    assert set(sys.modules) == before and importlib.util.find_spec("antigravity") is not None


def test_libraries_that_are_there_already_stay():
    import diffusers

    load_libraries("scipy")
    assert sys.modules["diffusers"] is diffusers


def test_the_garbage_collector_is_as_before():
    import gc

    with pytest.raises(ValueError, match="stop"), few_collections():
        assert not gc.isenabled()
        raise ValueError("stop")
    assert gc.isenabled()
