"""train_scripts/figures.py: the files of each figure, what they show, and its one-line refusals."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image

from hf_ddpm.data.table import load_images
from hf_ddpm.dcgan_pipeline import DCGANGenerator, DCGANPipeline
from hf_ddpm.figures.animation import CAPTION_HEIGHT
from hf_ddpm.figures.registry import FIGURES
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.run_folder import STATE
from hf_ddpm.runtime.lock import OutputLock


@pytest.fixture
def main(load_script):
    return load_script("figures").main


@pytest.fixture(scope="module")
def save_model(tiny_pipeline):
    def save(folder: Path, *, names=tuple("0123456789"), **options) -> None:
        scheduler = DDPMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
        tiny_pipeline(scheduler, names=names, **options).save_pretrained(folder)

    return save


@pytest.fixture(scope="module")
def run(save_model, tmp_path_factory) -> Path:
    """A run as train.py leaves it, but untrained."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    for step in (1, 2, 4):
        save_model(folder / "checkpoints" / f"step-{step:08d}", seed=step)
        (folder / "samples").mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (60 * step, 0, 0)).save(folder / "samples" / f"step-{step:08d}.png")
    save_model(folder / "pipeline", seed=4)
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"source": "digits", "train_split": "train"}}))
    rows = [{"step": step, "loss": 1 / step, "lr": 0.1} for step in range(1, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def gan(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "gan"
    torch.manual_seed(0)
    pipeline = DCGANPipeline(DCGANGenerator(8, 1, latent_dim=6, width=4, num_classes=3, label_channels=3), None)
    for step in (1, 2):
        pipeline.save_pretrained(folder / "checkpoints" / f"step-{step:08d}")
    return folder


DRAWN = ["--num_inference_steps=2", "--device=cpu"]
COMMANDS = {
    "forward": ["--data.source=digits", "--num_images=2"],
    "reverse": ["--model={run}/pipeline", "--class_labels=[3, 7]", *DRAWN],
    "posterior": ["--model={run}/pipeline", "--timesteps=[1, 1000]", "--device=cpu"],
    "reverse_gif": ["--model={run}/pipeline", "--class_labels=[1]", "--per_class=2", *DRAWN],
    "training_gif": ["--run={run}"],
    "schedules": ["--num_train_timesteps=[10, 20]"],
    "losses": ["--runs=[{run}]", "--smoothing=2"],
    "guided": ["--model={run}/pipeline", "--per_class=1", "--class_labels=[0, 4]", "--guidance_scales=[1, 3]", *DRAWN],
    "real": ["--data.source=digits", "--per_class=2"],
    "inpainting": ["--model={run}/pipeline", "--num_images=2", "--jump_length=1", "--jump_n_sample=2", *DRAWN],
    "strengths": ["--model={run}/pipeline", "--num_images=2", "--strengths=[0.5, 1]", *DRAWN],
    "interpolation": ["--model={run}/pipeline", "--num_images=3", "--class_labels=[3]", *DRAWN],
    "checkpoints": ["--run={run}", "--checkpoints=[4, 1]", "--per_class=1", "--class_labels=[1]", *DRAWN],
}


def command(name: str, run: Path, output: Path, *more: str) -> list[str]:
    return [name, *(option.format(run=run) for option in COMMANDS[name]), f"--output={output}", *more]


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_one_command(main, run, tmp_path, capsys, name):
    output = tmp_path / "new" / "folder" / "w1.5"
    main(command(name, run, output))
    suffixes = [".gif"] if name.endswith("_gif") else [".png", ".pdf"]
    paths = [Path(f"{output}{suffix}") for suffix in suffixes]
    assert sorted(output.parent.iterdir()) == sorted(paths)
    assert capsys.readouterr().out == f"{name}: {', '.join(map(str, paths))}\n"
    with Image.open(paths[0]) as picture:
        assert len(picture.convert("RGB").getcolors(2**20)) > 3
        assert picture.format == suffixes[0][1:].upper()
    assert paths[0].stat().st_size < 300_000


# What they show


def shows(path: Path, image: np.ndarray, *, scale: int = 7) -> bool:
    """Whether a picture has this image (H, W) somewhere, enlarged."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L")).astype(int)
    window = scale * (len(image) - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (window, window))[..., ::scale, ::scale]
    return bool((abs(windows - image.astype(int)).max(axis=(2, 3)) <= 1).any())


@pytest.mark.parametrize("name", ["reverse", "guided", "checkpoints"])
def test_samples_are_those_of_sample_py(main, load_script, run, tmp_path, name):
    options = {
        "reverse": ["--class_labels=[3, 7]", "--num_images=2"],
        "guided": ["--class_labels=[0, 4]", "--per_class=1", "--guidance_scale=3"],
        "checkpoints": ["--class_labels=[1]", "--per_class=1"],
    }[name]
    load_script("sample").main(
        [f"--model={run}/pipeline", f"--output_dir={tmp_path / 'a'}", "--format=npz", "--seed=5", *DRAWN, *options]
    )
    main(command(name, run, tmp_path / "figure", "--seed=5"))
    with np.load(tmp_path / "a" / "samples.npz") as samples:
        images = samples["images"][..., 0]
    assert all(shows(tmp_path / "figure.png", image) for image in images)
    assert not shows(tmp_path / "figure.png", 255 - images[0])


def test_a_process_says_whose_images_and_which_schedule(main, run, tmp_path, monkeypatch):
    from hf_ddpm.figures import forward

    titles = []
    monkeypatch.setattr(forward, "save_figure", lambda figure, stem: titles.append(figure.axes[0].texts[0].get_text()) or [])
    main(command("forward", run, tmp_path / "a", "--schedule.beta_schedule=cosine", "--schedule.num_train_timesteps=20"))
    main(command("forward", run, tmp_path / "a", "--data.source=null", f"--model={run}/pipeline"))
    assert titles == ["digits, train; cosine schedule, T = 20", "digits, train; linear schedule, T = 1,000"]


def test_real_images_are_shown(main, tmp_path):
    main(["real", "--data.source=digits", "--per_class=1", "--data.labels=[7, 2]", f"--output={tmp_path / 'real'}"])
    table = load_images("digits", "train", image_size=8)
    first = torch.stack([(table.class_labels == label).nonzero()[0, 0] for label in (7, 2, 3)])
    assert [shows(tmp_path / "real.png", image) for image in table.images(first)[:, 0].numpy()] == [True, True, False]


def test_a_training_is_animated_from_its_pictures_or_its_checkpoints(main, run, gan, tmp_path):
    def frames(name: str, folder: Path, *more: str) -> tuple[int, tuple[int, int]]:
        main(["training_gif", f"--run={folder}", f"--output={tmp_path / name}", *more])
        with Image.open(tmp_path / f"{name}.gif") as gif:
            return gif.n_frames, gif.size

    saved = frames("saved", run)
    assert saved == frames("saved", run, "--frames=samples") and saved[0] == 3 and saved[1][1] == 30 + CAPTION_HEIGHT
    assert frames("some", run, "--checkpoints=[4, 1]")[0] == 2
    few = ["--per_class=1", "--class_labels=[2]", *DRAWN]
    count, size = frames("drawn", run, *few)
    assert (count, size) == frames("asked", run, "--frames=checkpoints", *few) and count == 3 and size != saved[1]
    assert frames("gan", gan, "--per_class=2")[0] == 2


def test_a_gan_has_checkpoints_and_an_unconditional_model_a_square(save_model, main, gan, tmp_path):
    main(["checkpoints", f"--run={gan}", "--per_class=2", f"--output={tmp_path / 'gan'}"])
    save_model(tmp_path / "unconditional", names=None)
    main(["reverse_gif", f"--model={tmp_path / 'unconditional'}", "--per_class=3", f"--output={tmp_path / 'a'}", *DRAWN])
    main(["reverse", f"--model={tmp_path / 'unconditional'}", f"--output={tmp_path / 'a'}", *DRAWN])
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3 and gif.size == (2 + 3 * 34, 2 + 3 * 34 + CAPTION_HEIGHT)


# Mistakes


@pytest.mark.parametrize("args", [["--help"], ["-h"]])
def test_help_lists_the_figures(main, capsys, args):
    main(args)
    listed = capsys.readouterr().out.split("Figures:\n")[1].splitlines()
    assert [line.split()[0] for line in listed if line[2] != " "] == list(FIGURES)
    assert all(len(line.split()) > 3 for line in listed if line[2] != " ")


def refusal(main, capsys, args: list[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("args", [[], ["foward"], ["--output=x"], ["train"]])
def test_an_unknown_name_is_answered_with_the_known_ones(main, capsys, args):
    assert f"give one of {', '.join(FIGURES)}" in refusal(main, capsys, args)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("forward", ["--timesteps=[0, 1001]"], "--timesteps is 1001: give 0 to 1000"),
        ("forward", ["--timesteps=[]"], "--timesteps is []: give at least one"),
        ("forward", ["--output=x.png"], "--output is 'x.png': leave the suffix out"),
        ("reverse", ["--output={run}/metrics.jsonl/a/b"], "metrics.jsonl is not a folder, name another path"),
        ("forward", ["--data.source=null"], "--data.source is None: name the images, or give --model"),
        ("forward", ["--model={run}/pipeline", "--schedule.num_train_timesteps=10"], "--schedule is"),
        ("forward", ["--model={run}/pipeline", "--data.channels=3"], "--data.channels is 3: leave it out"),
        ("forward", ["--data.source=./nowhere"], "./nowhere"),
        ("forward", ["--num_images=5000"], "5000 are needed"),
        ("reverse", ["--timesteps=[1000, 400]"], "--timesteps is 400: the sampling does not pass through it"),
        ("reverse", ["--model=./nowhere"], "model is './nowhere': no such folder exists"),
        ("reverse", ["--model={run}"], "this is a run directory, give"),
        ("reverse", ["--model={gan}/checkpoints/step-00000001"], "it is a GAN"),
        ("reverse", ["--scheduler=ddimm"], "scheduler is 'ddimm'"),
        ("reverse", ["--class_labels=[12]"], "class_labels is 12"),
        ("reverse", ["--guidance_scale=.nan"], "guidance_scale is nan"),
        ("posterior", ["--timesteps=[0]"], "--timesteps is 0: give 1 to 1000"),
        ("posterior", ["--model={gan}/checkpoints/step-00000001"], "it is a GAN"),
        ("posterior", ["--amplification=-1"], "--amplification is -1.0: give a number above 0"),
        ("reverse_gif", ["--num_frames=1"], "--num_frames is 1: give at least 2"),
        ("training_gif", ["--run=./nowhere"], "--run is 'nowhere': the folder does not exist"),
        ("training_gif", ["--checkpoints=[3]"], "--checkpoints is 3: {run} has no sample grid of this step"),
        ("training_gif", ["--frames=samples", "--seed=3"], "--seed is 3: leave it out"),
        ("training_gif", ["--checkpoints=[2]"], "an animation needs samples of two steps or more"),
        ("schedules", ["--num_train_timesteps=[1]"], "--num_train_timesteps is 1: give 2 to 100000"),
        ("schedules", ["--schedules=[cosine]", "--beta_start=0.1"], "--beta_start is 0.1: leave it out"),
        ("schedules", ["--schedules=[quadratic]"], "--schedules"),
        ("losses", ["--runs=[{run}, ./nowhere]"], "--runs is 'nowhere': it has no metrics.jsonl"),
        ("inpainting", ["--region=middle"], "--region"),
        ("inpainting", ["--scheduler=heun"], "scheduler is 'HeunDiscreteScheduler': steps can be repeated with DDPM"),
        ("strengths", ["--strengths=[0.5, 2]"], "--strengths is [0.5, 2.0]: give numbers above 0, at most 1"),
        ("interpolation", ["--num_images=1"], "--num_images is 1: give at least 2"),
        ("interpolation", ["--scheduler=ddpm"], "scheduler is 'DDPMScheduler': it adds noise to its steps"),
        ("guided", ["--guidance_scales=[]"], "--guidance_scales is []: give at least one"),
        ("guided", ["--model={gan}/checkpoints/step-00000001"], "it is a GAN"),
        ("real", ["--per_class=0"], "--per_class is 0: give 1 to 32"),
        ("real", ["--data.image_size=0"], "--data.image_size is 0"),
        ("checkpoints", ["--checkpoints=[1, 3]"], "{run} has no checkpoint of this step, choose from 1, 2, 4"),
        ("checkpoints", ["--run={run}/pipeline"], "not a run folder"),
        ("checkpoints", ["--no_such_option=1"], "unknown option"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(main, run, gan, tmp_path, monkeypatch, capsys, name, more, message):
    monkeypatch.chdir(tmp_path)
    line = refusal(main, capsys, command(name, run, Path("figure"), *(option.format(run=run, gan=gan) for option in more)))
    assert message.format(run=run) in line
    assert not list(tmp_path.glob("figure*"))


def test_one_checkpoint_is_refused_before_anything_is_sampled(main, run, tmp_path, capsys):
    one = ["--frames=checkpoints", "--checkpoints=[2]", "--scheduler=ddimm"]  # which sampling would refuse
    line = refusal(main, capsys, ["training_gif", f"--run={run}", f"--output={tmp_path / 'a'}", *one])
    assert "an animation needs checkpoints of two steps or more" in line


def test_scales_are_checked_before_the_first_is_sampled(main, run, tmp_path, capsys, monkeypatch):
    from hf_ddpm.figures import samples

    monkeypatch.setattr(samples, "sample_images", pytest.fail)
    line = refusal(main, capsys, command("guided", run, tmp_path / "a", "--guidance_scales=[1, .nan]"))
    assert "guidance_scale is nan" in line


def test_a_scheduler_without_betas_is_refused(main, run, tmp_path, capsys):
    pipeline = CFGDDPMPipeline.from_pretrained(run / "pipeline")
    CFGDDPMPipeline(pipeline.unet, FlowMatchEulerDiscreteScheduler(), pipeline.id2label, 10).save_pretrained(
        tmp_path / "flow"
    )
    with pytest.raises(SystemExit) as caught:
        main(["forward", f"--model={tmp_path / 'flow'}", f"--output={tmp_path / 'a'}"])
    assert caught.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]  # after a warning of diffusers
    assert "its FlowMatchEulerDiscreteScheduler has no betas" in line


def test_an_unconditional_model_has_no_guided_figure(save_model, main, tmp_path, capsys):
    save_model(tmp_path / "model", names=None)
    line = refusal(main, capsys, ["guided", f"--model={tmp_path / 'model'}", f"--output={tmp_path / 'a'}"])
    assert "it is unconditional, give a class-conditional one" in line
    line = refusal(main, capsys, ["posterior", f"--model={tmp_path / 'model'}", f"--output={tmp_path / 'a'}"])
    assert "--data.source is None" in line


def test_a_figure_that_another_program_is_writing_is_refused(main, tmp_path, capsys):
    with OutputLock(tmp_path / "betas.v1", option="output", file_name="betas.v1") as lock:
        lock.take()
        with pytest.raises(SystemExit) as stopped:
            main(["schedules", "--output", str(tmp_path / "betas.v1")])
        assert stopped.value.code == 2
        assert f": --output is '{tmp_path / 'betas.v1'}': process {os.getpid()} on " in capsys.readouterr().err
        main(["schedules", "--output", str(tmp_path / "betas.v2")])
    assert sorted(path.name for path in tmp_path.glob("*betas*")) == ["betas.v2.pdf", "betas.v2.png"]


def test_a_checkpoint_is_not_shown_under_a_step_that_it_is_not_of(main, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/checkpoints/step-00000004/training").mkdir()
    (tmp_path / "run/checkpoints/step-00000004" / STATE).write_text('{"step": 3}')
    with pytest.raises(SystemExit) as stopped:
        main(["checkpoints", "--run", str(tmp_path / "run"), "--output", str(tmp_path / "figure")])
    assert stopped.value.code == 2 and "its name is not that of its state, which is of step 3" in capsys.readouterr().err
