"""Seconds until a new user's mistake is reported, and the heavy packages that were imported by then.

python tests/benchmarks/mistakes.py                                  # of this source tree
python tests/benchmarks/mistakes.py --scripts ../other/train_scripts # of another one
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "datasets", "transformers", "diffusers")
# Runs a script as its own program and says at the end what it has imported.
RUN = f"""
import atexit, runpy, sys
atexit.register(lambda: print("imported:", *[name for name in {HEAVY} if name in sys.modules]))
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TRAIN = "--output_dir new"
MONITOR = f"{TRAIN} --evaluation.every_steps 1 --evaluation.features"
EVALUATE = "--model model --output new.json --features inception"
SWEEP = "--output_dir new --model model --features inception --grid.guidance_scale [1,2]"
RECIPES = {"train": "digits.yaml", "train_gan": "gan_digits.yaml", "train_judge": "judge_digits.yaml"}
# Names of folders and files are those of `prepare`.
MISTAKES = (
    ("train", "unknown option", f"{TRAIN} --data.batchsize 3"),
    ("train", "wrong choice", f"{TRAIN} --objective.prediction_type noise"),
    ("train", "unknown preset", f"{TRAIN} --model.preset digits9"),
    ("train", "unreadable recipe", f"{TRAIN} --config broken.yaml"),
    ("train", "missing recipe", f"{TRAIN} --config missing.yaml"),
    ("train", "recipe of another program", f"{TRAIN} --config judge.yaml"),
    ("train", "missing data folder", f"{TRAIN} --data.source ./missing"),
    ("train", "missing model to start from", f"{TRAIN} --model.init_from ./missing"),
    ("train", "occupied output_dir", "--output_dir occupied"),
    ("train", "nothing to resume", f"{TRAIN} --resume latest"),
    ("train", "missing checkpoint", f"{TRAIN} --resume new/checkpoints/step-00000001"),
    ("train", "missing judge", f"{MONITOR} judge:missing"),
    ("train", "unknown scheduler", f"{MONITOR} inception --evaluation.scheduler x"),
    ("train", "unknown split", f"{TRAIN} --data.train_split training"),
    ("train", "missing label column", f"{TRAIN} --data.label_column kind"),
    ("train", "class that does not exist", f"{TRAIN} --data.labels [11]"),
    ("train", "data set of the Hub, offline", f"{TRAIN} --data.source nobody/nothing"),
    ("train", "fp16 without CUDA", f"{TRAIN} --mixed_precision fp16"),
    ("train_gan", "wrong image size", f"{TRAIN} --data.image_size 9"),
    ("train_gan", "missing data folder", f"{TRAIN} --data.source ./missing"),
    ("train_judge", "no held-out split", f"{TRAIN} --data.test_split null"),
    ("train_judge", "occupied output_dir", "--output_dir occupied"),
    ("sample", "missing model folder", "--model runs/missing/pipeline --output_dir new --num_images 1"),
    ("sample", "occupied output_dir", "--model model --output_dir occupied --num_images 1"),
    ("sample", "unknown scheduler", "--model model --output_dir new --num_images 1 --scheduler dmp"),
    ("sample", "class that does not exist", "--model model --output_dir new --class_labels [frgo]"),
    ("sample", "number of images not given", "--model model --output_dir new --num_images 0"),
    ("evaluate_model", "missing model folder", f"{EVALUATE} --model runs/missing/pipeline"),
    ("evaluate_model", "unknown features", f"{EVALUATE} --features incpetion"),
    ("evaluate_model", "missing judge", f"{EVALUATE} --features judge:missing"),
    ("evaluate_model", "missing data folder", f"{EVALUATE} --data.source ./missing"),
    ("sweep", "no axis", "--output_dir new --model model --features inception"),
    ("sweep", "missing judge", f"{SWEEP} --features judge:missing"),
    ("sweep", "unknown scheduler", f"{SWEEP} --grid.scheduler [ddmi]"),
    ("figures", "unknown figure", "reversed --output new"),
    ("figures", "missing model folder", "reverse --model runs/missing/pipeline --output new"),
    ("push_to_hub", "missing model folder", "--model runs/missing/pipeline --repo_id me/it"),
)  # fmt: skip


def prepare(folder: Path) -> None:
    """The files that the mistakes are about: a tiny model, a folder that is not empty, and recipes."""
    from diffusers import DDPMScheduler, UNet2DModel

    from hf_ddpm.pipeline import CFGDDPMPipeline

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, num_class_embeds=3, norm_num_groups=4, **blocks)
    CFGDDPMPipeline(unet, DDPMScheduler(), {0: "cat", 1: "frog"}, 2).save_pretrained(folder / "model")
    (folder / "occupied").mkdir()
    (folder / "occupied" / "notes.txt").write_text("mine")
    (folder / "broken.yaml").write_text("data: [1, 2\nseed: {")
    (folder / "judge.yaml").write_text("program: train_judge\n")


def report(script: Path, options: str, folder: Path) -> tuple[str, list[str], float]:
    """Make a mistake: its message, the heavy packages that were imported, and the seconds."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(script.parents[1])}
    started = time.perf_counter()
    command = [sys.executable, "-c", RUN, str(script), *options.split()]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    seconds = time.perf_counter() - started
    imported = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("imported:")).split()[1:]
    lines = done.stderr.strip().splitlines()
    message = lines[-1] if lines else ""
    return message if done.returncode == 2 else f"exit code {done.returncode}: {message}", imported, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scripts", type=Path, default=ROOT / "train_scripts", help="folder of the programs")
    scripts = parser.parse_args().scripts.resolve()
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        print("| program | mistake | seconds | imported | message |\n|---|---|---|---|---|")
        for program, mistake, options in MISTAKES:
            if program in RECIPES and "--config" not in options:
                options = f"--config {scripts / 'recipes' / RECIPES[program]} {options}"
            message, imported, seconds = report(scripts / f"{program}.py", options, Path(name))
            print(f"| {program} | {mistake} | {seconds:.1f} | {' '.join(imported)} | {message[:90]} |", flush=True)


if __name__ == "__main__":
    main()
