"""Distillation through its public function, on networks of a few thousand parameters and the real digits."""

import copy
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, LCMScheduler
from safetensors.torch import load_file

from hf_ddpm.cli import parse_config
from hf_ddpm.data.table import load_images
from hf_ddpm.hub.card import card_files
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.sampling import default_guidance_scale, generate
from hf_ddpm.training.checkpoints import UNET_WEIGHTS
from hf_ddpm.training.distill_options import DistillConfig
from hf_ddpm.training.distillation import BEFORE, distill, training_task
from hf_ddpm.training.estimate import estimate_training
from hf_ddpm.training.state import MOMENTS, WEIGHTS
from hf_ddpm.training.teacher import as_teacher_knows, build_student, load_teacher

DIGITS = tuple("0123456789")
METHODS = ("consistency", "progressive")


@pytest.fixture
def config_of(tiny_run, some_digits, tmp_path):
    def build(name: str, *options: str, teacher: Path | str = tiny_run / "pipeline") -> DistillConfig:
        common = [f"--teacher={teacher}", some_digits, "--data.batch_size=8", "--num_threads=1", "--mixed_precision=fp32"]
        common += ["--logging.every_steps=1", "--logging.sample_every_steps=null", "--optim.learning_rate=1e-3"]
        return parse_config(DistillConfig, [*common, f"--output_dir={tmp_path / name}", *options])

    return build


@pytest.fixture
def run(config_of, tmp_path):
    """Distill into tmp_path / name and return that run folder."""

    def run(name: str, *options: str, **more) -> RunFolder:
        distill(config_of(name, *options, **more))
        return RunFolder(tmp_path / name)

    return run


@pytest.fixture
def saved_teacher(tiny_pipeline, tmp_path):
    """Save an untrained teacher and return its folder."""

    def save(prediction_type: str = "v_prediction", **options) -> Path:
        scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction_type)
        tiny_pipeline(scheduler, **{"names": DIGITS, **options}).save_pretrained(tmp_path / "teacher")
        return tmp_path / "teacher"

    return save


def count_images(pipeline: CFGDDPMPipeline, **options) -> int:
    """Images that the network processes in a call."""
    counts: list[int] = []
    hook = pipeline.unet.register_forward_hook(lambda module, inputs, output: counts.append(len(inputs[0])))
    pipeline(output_type="np", **options)
    hook.remove()
    return sum(counts)


def test_a_student_samples_in_four_calls_without_being_asked(run, tiny_run):
    folder = run("new", "--max_train_steps=2", "--guidance_scale=2")
    pipeline = CFGDDPMPipeline.from_pretrained(folder.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.scheduler, LCMScheduler) and pipeline.id2label == dict(enumerate(DIGITS))
    assert (pipeline.null_label, pipeline.unet.config.num_class_embeds) == (None, 10)
    assert count_images(pipeline, class_labels=["3", 7]) == 8
    assert count_images(pipeline, class_labels=3, num_inference_steps=2, guidance_scale=2.0) == 2
    generators = partial(lambda: [torch.Generator().manual_seed(seed) for seed in (0, 1)])
    ours = pipeline(class_labels=["3", 7], generator=generators(), output_type="np").images
    general = DiffusionPipeline.from_pretrained(folder.pipeline, trust_remote_code=True)
    general.set_progress_bar_config(disable=True)
    assert type(general) is not CFGDDPMPipeline
    theirs = general(class_labels=["3", 7], generator=generators(), output_type="np").images
    assert abs(ours - theirs).max() < 1e-5
    grid = folder.read_grid_settings()
    assert grid is not None
    assert (grid.scheduler, grid.num_inference_steps, grid.guidance_scale) == ("LCMScheduler", 4, 2.0)
    before = load_file(tiny_run / "pipeline" / UNET_WEIGHTS)["class_embedding.weight"]
    assert not torch.equal(load_file(folder.pipeline / UNET_WEIGHTS)["class_embedding.weight"], before[:10])
    card = card_files(folder.pipeline, folder.path)["README.md"].decode()
    assert "samples in 4 steps" in card and "guidance of the scale 2.0 built in" in card
    usage = card[card.index("## Usage") : card.index("## Classes")]
    assert "guidance_scale" not in usage and "num_inference_steps" not in usage and "scheduler" not in usage
    assert "hf-ddpm distill --config recipe.yaml" in card and "Consistency Models Made Easy" in card


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_distillation_is_equal_to_the_bit(run, method):
    options = (f"--method={method}", "--checkpoint.every_steps=3")
    whole = run("whole", *options, "--max_train_steps=6")
    parts = run("parts", *options, "--max_train_steps=6", "--checkpoint.keep=2")
    # The third of six steps is in the second of three stages, and with the third the second half of the parts of q begins.
    for path in (parts.checkpoint(6), parts.path / "pipeline"):
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        path.rmdir()
    assert (parts.checkpoint(3) / BEFORE).is_file() == (method == "progressive")
    run("parts", *options, "--max_train_steps=6", "--resume=auto")
    for name in (UNET_WEIGHTS, WEIGHTS, MOMENTS):
        ours, theirs = (load_file(folder.checkpoint(6) / name) for folder in (whole, parts))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    losses = [[line.get("loss") for line in folder.read_metrics() if line["step"] == 6] for folder in (whole, parts)]
    assert losses[0][0] == losses[1][-1]


def test_progressive_students_take_steps_of_ddim(run):
    folder = run("new", "--method=progressive", "--num_inference_steps=8", "--max_train_steps=2")
    pipeline = CFGDDPMPipeline.from_pretrained(folder.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.scheduler, DDIMScheduler) and count_images(pipeline, class_labels=3) == 8
    assert pipeline.scheduler.timesteps.tolist() == list(range(999, 0, -125))


@pytest.mark.parametrize("method", METHODS)
def test_the_split_of_the_batch_does_not_matter(run, method):
    whole = run("whole", f"--method={method}", "--max_train_steps=2")
    split = ["--data.batch_size=4", "--optim.gradient_accumulation_steps=2"]
    parts = run("parts", f"--method={method}", "--max_train_steps=2", *split)
    one, other = (load_file(folder.checkpoint(2) / WEIGHTS) for folder in (whole, parts))
    assert max((one[key] - other[key]).abs().max() for key in one) < 2e-4
    losses = [[line["loss"] for line in folder.read_metrics()[:2]] for folder in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_teacher_without_classes_and_one_without_a_null_label(run, saved_teacher):
    folder = run("new", "--max_train_steps=1", teacher=saved_teacher("sample", names=None))
    pipeline = CFGDDPMPipeline.from_pretrained(folder.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.built_in_guidance_scale is None and count_images(pipeline, batch_size=2) == 8
    folder = run("other", "--max_train_steps=1", teacher=saved_teacher(null=False))
    pipeline = CFGDDPMPipeline.from_pretrained(folder.pipeline)
    assert (pipeline.built_in_guidance_scale, default_guidance_scale(pipeline)) == (1.0, 1.0)
    assert len([*generate(pipeline, class_labels=[1, 2])][0].images) == 2


def test_a_guide_of_the_teacher_is_built_in(run, saved_teacher, tiny_unet):
    folder = saved_teacher(names=None)
    guided = CFGDDPMPipeline.from_pretrained(folder)
    guided.set_guide(tiny_unet(None, seed=1))
    guided.save_pretrained(folder)
    pipelines = {}
    for name, scale in (("guided", 2), ("alone", 1)):
        new = run(name, "--max_train_steps=2", f"--guidance_scale={scale}", teacher=folder)
        pipelines[name] = CFGDDPMPipeline.from_pretrained(new.pipeline)
    assert (pipelines["guided"].built_in_guidance_scale, pipelines["guided"].guide) == (2.0, None)
    ours, theirs = (pipeline.unet.state_dict() for pipeline in pipelines.values())
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours)


def test_what_the_run_of_the_teacher_says_of_its_data_is_taken_over(tiny_run, tmp_path):
    options = [f"--teacher={tiny_run / 'pipeline'}", "--max_train_steps=1", f"--output_dir={tmp_path / 'new'}"]
    config = parse_config(DistillConfig, [*options, "--data.batch_size=3", "--data.test_split=test"])
    assert (config.data.source, config.data.batch_size, config.data.test_split) == ("digits", 3, "test")
    with pytest.raises(ValueError, match=r"--data.source is None: the teacher belongs to no run"):
        DistillConfig(teacher=str(tmp_path), max_train_steps=1, output_dir=str(tmp_path / "new"))


def test_the_estimate_counts_calls_of_the_student(config_of, capsys):
    config = config_of("new", "--max_train_steps=5", "--method=progressive")
    estimate_training(config, training_task)
    assert re.search(r"^steps +5$", capsys.readouterr().out, flags=re.MULTILINE)
    assert not Path(config.output_dir).exists()


def test_another_teacher_is_refused_when_a_run_is_resumed(run, saved_teacher, tiny_run):
    run("new", "--max_train_steps=1")
    moved = tiny_run / "checkpoints" / "step-00000002"
    run("new", "--max_train_steps=2", "--resume=auto", teacher=moved)
    with pytest.raises(ValueError, match="the checkpoint is of another run, teacher_sha256 was"):
        run("new", "--max_train_steps=3", "--resume=auto", teacher=saved_teacher(seed=1))


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        ({"prediction_type": "epsilon"}, [], "predicts epsilon, whose errors are .* times as large .* --model.init_from"),
        ({"null": False}, ["--guidance_scale=2"], "guidance_scale is 2.0: the teacher has no null label"),
        ({"names": None}, ["--guidance_scale=2"], "guidance_scale is 2.0: the teacher is unconditional"),
    ],
)
def test_a_teacher_that_cannot_be_distilled_is_refused(saved_teacher, config_of, teacher, options, message):
    config = config_of("new", "--max_train_steps=1", *options, teacher=saved_teacher(**teacher))
    with pytest.raises(ValueError, match=message):
        load_teacher(config)


def test_too_many_steps_and_a_distilled_teacher_are_refused(tiny_pipeline, config_of, tmp_path):
    scheduler = DDPMScheduler(num_train_timesteps=20, prediction_type="v_prediction")
    tiny_pipeline(scheduler, names=DIGITS).save_pretrained(tmp_path / "short")
    config = config_of("new", "--max_train_steps=1", "--method=progressive", teacher=tmp_path / "short")
    with pytest.raises(ValueError, match="num_inference_steps is 4: the teacher would take 32 steps, and has 20 timesteps"):
        load_teacher(config)
    unet = tiny_pipeline(names=DIGITS, null=False).unet
    lcm = LCMScheduler(prediction_type="v_prediction")
    CFGDDPMPipeline(unet, lcm, default_num_inference_steps=4).save_pretrained(tmp_path / "student")
    with pytest.raises(ValueError, match="it is distilled already"):
        load_teacher(config_of("new", "--max_train_steps=1", teacher=tmp_path / "student"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher=nowhere"], "argument --teacher"),
        (["--num_inference_steps=0"], "num_inference_steps"),
        (["--method=adversarial"], "--method is 'adversarial'"),
        (["--data.streaming"], "streaming"),
    ],
)
def test_a_mistake_is_one_line(load_script, tiny_run, tmp_path, capsys, options, message):
    common = ["--data.source=digits", f"--teacher={tiny_run / 'pipeline'}", "--max_train_steps=1"]
    with pytest.raises(SystemExit) as stopped:
        load_script("distill").main([*common, f"--output_dir={tmp_path / 'new'}", *options])
    line = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and options[0].split("=")[0] in line, line


def test_the_student_begins_as_its_teacher_with_every_class(tiny_pipeline):
    teacher = tiny_pipeline()
    student = build_student(teacher).eval()
    images, timesteps, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 500, 999]), torch.arange(3)
    with torch.no_grad():
        ours, theirs = (network(images, timesteps, class_labels=labels).sample for network in (student, teacher.unet))
    assert torch.equal(ours, theirs) and student.config.num_class_embeds == 3


def test_classes_are_those_of_the_teacher_by_name(tiny_pipeline):
    digits = load_images("digits", "test", image_size=8)
    reversed_names = tiny_pipeline(names=tuple(reversed(DIGITS)))
    found = as_teacher_knows(digits, reversed_names)
    assert torch.equal(found.class_labels, 9 - digits.class_labels)
    assert as_teacher_knows(digits, tiny_pipeline(names=None)).class_labels is None
    with pytest.raises(ValueError, match="--data has the class '0': the teacher knows cat, dog, frog"):
        as_teacher_knows(digits, tiny_pipeline())
    with pytest.raises(ValueError, match="--data has no labels"):
        as_teacher_knows(as_teacher_knows(digits, tiny_pipeline(names=None)), reversed_names)


def test_distillation_brings_the_student_to_the_end_of_the_teachers_way(run, tiny_run):
    """Of a teacher and of its student, the images of the same noise in one call, beside those of many steps."""
    folder = run("new", "--max_train_steps=60", "--guidance_scale=1", "--optim.learning_rate=3e-3", "--ema.decay=null")
    teacher, student = (CFGDDPMPipeline.from_pretrained(path) for path in (tiny_run / "pipeline", folder.pipeline))
    plain = copy.copy(teacher)
    plain.scheduler = DDIMScheduler.from_config(teacher.scheduler.config, timestep_spacing="trailing", clip_sample=False)
    for pipeline in (teacher, student, plain):
        pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"class_labels": [number % 10 for number in range(64)], "latents": noise, "output_type": "latent"}
    aim = plain(num_inference_steps=50, **options).images
    one = plain(num_inference_steps=1, **options).images
    ours = student(num_inference_steps=1, **options).images
    assert (ours - aim).square().mean() < 0.8 * (one - aim).square().mean()
