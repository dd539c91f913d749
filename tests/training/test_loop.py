"""The training loop through its public command, on a U-Net of a few thousand parameters."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_ddpm.cli import parse_config
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.sampling import generate, load_pipeline
from hf_ddpm.training import preview
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig

ROOT = Path(__file__).parents[2]

# Trains with each list of options in a child process, which dies by SIGKILL right after step 17, before that step is logged.
KILLED_RUNS = """
import json, os, signal, sys
import hf_ddpm.training.loop as loop
from hf_ddpm.cli import parse_config
from hf_ddpm.training.options import TrainConfig

take_step = loop.train_step

def train_step(state, run, step):
    result = take_step(state, run, step)
    if state.step == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

loop.train_step = train_step
for options in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        loop.train(parse_config(TrainConfig, options))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""
# Micro-steps of each of these runs.
ACCUMULATIONS = (1, 3)

SNAPSHOTS = [f"step-{step:08d}.safetensors" for step in (8, 16, 24, 32, 40)]
"""What is kept of each of these runs."""


def killed_options(accumulation: int) -> list[str]:
    return [
        "--max_train_steps=40",
        "--checkpoint.every_steps=5",
        "--model.overrides.dropout=0.1",
        "--data.horizontal_flip=true",
        f"--optim.gradient_accumulation_steps={accumulation}",
        "--logging.every_steps=4",
        "--ema.snapshot_every_steps=4",
        "--ema.max_snapshots=8",
    ]


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory, tiny_options, decoded_digits) -> Path:
    """A folder with a killed run for each number of micro-steps."""
    folder = tmp_path_factory.mktemp("killed")
    runs = [[*tiny_options, *killed_options(count), f"--output_dir={folder / str(count)}"] for count in ACCUMULATIONS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(decoded_digits), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED_RUNS, json.dumps(runs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run_training(tiny_options, tmp_path):
    """Train into tmp_path / name and return that folder."""

    def run(name: str, *options: str) -> Path:
        folder = tmp_path / name
        train(parse_config(TrainConfig, [*tiny_options, f"--output_dir={folder}", *options]))
        return folder

    return run


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_options, decoded_digits) -> Path:
    """The folder of a run of four steps without any other option."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", decoded_digits)
        train(parse_config(TrainConfig, [*tiny_options, f"--output_dir={folder}", "--max_train_steps=4"]))
    return folder


@pytest.fixture
def begun(tiny_run, tmp_path) -> Path:
    """The folder tmp_path / "run" of a run of two steps."""
    return shutil.copytree(tiny_run, tmp_path / "run")


def tensor_hashes(checkpoint: Path) -> dict[str, str]:
    """sha256 of every tensor of model, averaged model and optimizer."""
    files = ["training/model.safetensors", "training/optimizer.safetensors", "unet/diffusion_pytorch_model.safetensors"]
    files += ["training/power_averages.safetensors"] if (checkpoint / "training/power_averages.safetensors").exists() else []
    return {
        f"{file}:{name}": hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for file in files
        for name, tensor in load_file(checkpoint / file).items()
    }


def metrics(folder: Path) -> list[dict]:
    """Lines of metrics.jsonl without what the clock says."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "images_per_second"} for record in records]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def losses(folder: Path) -> torch.Tensor:
    return torch.tensor([record["loss"] for record in metrics(folder) if "loss" in record])


class TestRunFolder:
    def test_holds_what_it_promises(self, run_training):
        folder = run_training(
            "run",
            "--max_train_steps=6",
            "--checkpoint.every_steps=2",
            "--data.test_split=test",
            "--logging.sample_every_steps=3",
        )
        for name in (
            "config.yaml",
            "data.json",
            "environment.json",
            "metrics.jsonl",
            "pipeline/model_index.json",
            "pipeline/pipeline.py",
            "pipeline/editing_pipeline.py",
            "pipeline/README.md",
            "pipeline/samples.png",
        ):
            assert (folder / name).is_file(), name
        assert names_in(folder / "checkpoints") == ["step-00000004", "step-00000006"]
        assert names_in(folder / "samples") == ["grid.json", "step-00000003.png", "step-00000006.png"]
        assert [r["step"] for r in metrics(folder) if "test_loss" in r] == [3, 6]
        assert not list(folder.rglob("*.partial")), "nothing half-written stays"
        suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
        assert suffixes <= {".json", ".jsonl", ".yaml", ".safetensors", ".py", ".png", ".md"}, "no pickle among them"

    def test_its_options_repeat_the_run(self, plain, tmp_path):
        again = parse_config(TrainConfig, ["--config", str(plain / "config.yaml"), f"--output_dir={tmp_path / 'again'}"])
        train(again)
        assert metrics(tmp_path / "again") == metrics(plain)

    def test_a_checkpoint_is_a_pipeline(self, plain):
        from_checkpoint = load_pipeline(str(plain / "checkpoints" / "step-00000004"))
        saved = load_pipeline(str(plain / "pipeline"))
        for name, tensor in saved.unet.state_dict().items():
            assert torch.equal(tensor, from_checkpoint.unet.state_dict()[name])

    def test_pipeline_knows_names_and_null_label(self, run_training):
        folder = run_training("run", "--max_train_steps=1", "--data.labels=[7, 3]")
        pipeline = CFGDDPMPipeline.from_pretrained(folder / "pipeline")
        assert pipeline.id2label == {0: "7", 1: "3"}
        assert pipeline.null_label == 2
        assert pipeline.scheduler.config.timestep_spacing == "trailing"

    def test_epochs_are_turned_into_steps(self, run_training):
        folder = run_training("run", "--num_train_epochs=2", "--data.batch_size=1000", "--logging.every_steps=1")
        assert metrics(folder)[-1]["step"] == 3, "2 x 1,437 images in batches of 1,000"
        assert metrics(folder)[-1]["images_seen"] == 3000

    def test_a_part_of_the_data_makes_shorter_epochs(self, run_training):
        folder = run_training("run", "--num_train_epochs=2", "--data.max_images=16", "--data.batch_size=8")
        assert [record["epoch"] for record in metrics(folder)] == [0.5, 1.0, 1.5, 2.0]

    def test_tensorboard_gets_the_metrics_and_the_sample_grids(self, run_training):
        sampled = ("--logging.sample_every_steps=1", "--logging.every_steps=1")
        folder = run_training("run", "--max_train_steps=2", "--logging.trackers=[tensorboard]", *sampled)
        events = EventAccumulator(str(folder / "trackers")).Reload()
        assert [event.step for event in events.Scalars("loss")] == [1, 2]
        assert [event.step for event in events.Images("samples")] == [1, 2]


class TestResume:
    @pytest.mark.parametrize("accumulation", ACCUMULATIONS)
    def test_killed_run_continues_bit_for_bit(self, run_training, killed_runs, accumulation):
        options, killed = killed_options(accumulation), killed_runs / str(accumulation)
        assert names_in(killed / "checkpoints") == ["step-00000010", "step-00000015"]
        assert not (killed / "pipeline").exists()
        run_training(str(killed), *options, "--resume=auto")
        whole = run_training("whole", *options)
        assert tensor_hashes(killed / "checkpoints/step-00000040") == tensor_hashes(whole / "checkpoints/step-00000040")
        assert metrics(killed) == metrics(whole)
        assert names_in(killed / "snapshots") == names_in(whole / "snapshots") == SNAPSHOTS
        for name in SNAPSHOTS:
            assert (killed / "snapshots" / name).read_bytes() == (whole / "snapshots" / name).read_bytes()

    def test_a_finished_run_can_be_made_longer(self, run_training):
        options = ["--checkpoint.every_steps=4", "--optim.lr_scheduler=constant"]
        whole = run_training("whole", "--max_train_steps=8", *options)
        longer = run_training("longer", "--max_train_steps=4", *options)
        run_training("longer", "--max_train_steps=8", *options, "--resume=latest")
        assert tensor_hashes(longer / "checkpoints/step-00000008") == tensor_hashes(whole / "checkpoints/step-00000008")

    def test_auto_falls_back_to_the_checkpoint_before_a_damaged_one(self, run_training, caplog):
        options = ["--max_train_steps=6", "--checkpoint.every_steps=3"]
        folder = run_training("run", *options)
        before = tensor_hashes(folder / "checkpoints/step-00000006")
        weights = folder / "checkpoints/step-00000006/training/model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        run_training("run", *options, "--resume=auto")
        assert "model.safetensors" in caplog.text
        assert tensor_hashes(folder / "checkpoints/step-00000006") == before

    def test_another_architecture_is_refused(self, run_training, begun):
        with pytest.raises(ValueError, match=r"model\.overrides\.layers_per_block"):
            run_training("run", "--max_train_steps=4", "--resume=auto", "--model.overrides.layers_per_block=2")

    def test_other_data_is_refused(self, run_training, begun):
        with pytest.raises(ValueError, match="data_fingerprint"):
            run_training("run", "--max_train_steps=4", "--resume=auto", "--data.train_split=test")

    def test_another_learning_rate_is_warned_about_and_takes_effect(self, run_training, caplog):
        constant = "--optim.lr_scheduler=constant"
        run_training("run", "--max_train_steps=2", constant)
        folder = run_training("run", "--max_train_steps=3", constant, "--resume=auto", "--optim.learning_rate=0.5")
        assert "optim.learning_rate was 0.001 and is now 0.5" in caplog.text
        assert [record["lr"] for record in metrics(folder)] == [0.001, 0.001, 0.5]

    def test_a_moving_average_can_start_late(self, run_training):
        run_training("run", "--max_train_steps=2", "--ema.decay=null")
        folder = run_training("run", "--max_train_steps=3", "--resume=auto")
        state = json.loads((folder / "checkpoints/step-00000003/training/state.json").read_text())
        assert state["ema_step"] == 1

    def test_a_null_label_cannot_come_later(self, run_training):
        run_training("run", "--max_train_steps=1", "--objective.class_dropout_prob=0")
        with pytest.raises(ValueError, match="null_label was None and is 10"):
            run_training("run", "--max_train_steps=2", "--resume=auto")

    def test_a_stream_is_read_on_where_it_stopped(self, run_training):
        options = ["--max_train_steps=8", "--checkpoint.every_steps=4", "--data.streaming=true", "--data.max_images=20"]
        folder = run_training("run", *options, "--data.shuffle_buffer=7")
        expected = metrics(folder), tensor_hashes(folder / "checkpoints" / "step-00000008")
        start = folder / "checkpoints" / "step-00000004"
        run_training("run", *options, "--data.shuffle_buffer=7", f"--resume={start}")
        assert (metrics(folder), tensor_hashes(folder / "checkpoints" / "step-00000008")) == expected

    def test_rewinding_drops_the_steps_that_are_done_again(self, run_training, tmp_path):
        options = ["--max_train_steps=6", "--checkpoint.every_steps=2", "--checkpoint.keep=3"]
        folder = run_training("run", *options)
        before = tensor_hashes(folder / "checkpoints/step-00000006")
        run_training("run", *options, f"--resume={folder / 'checkpoints/step-00000002'}")
        assert names_in(folder / "checkpoints") == ["step-00000002", "step-00000004", "step-00000006"]
        assert [record["step"] for record in metrics(folder)] == [1, 2, 3, 4, 5, 6]
        assert tensor_hashes(folder / "checkpoints/step-00000006") == before

    def test_a_shorter_run_is_refused(self, run_training, begun):
        with pytest.raises(ValueError, match="past the end"):
            run_training("run", "--max_train_steps=1", "--resume=auto")


class TestEquivalence:
    def test_accumulation_sees_the_same_samples_noise_and_losses(self, run_training):
        whole = run_training("whole", "--max_train_steps=10", "--data.horizontal_flip=true")
        split = run_training(
            "split",
            "--max_train_steps=10",
            "--data.horizontal_flip=true",
            "--data.batch_size=4",
            "--optim.gradient_accumulation_steps=2",
        )
        assert torch.allclose(losses(whole), losses(split), atol=1e-3, rtol=0)
        assert metrics(whole)[-1]["images_seen"] == metrics(split)[-1]["images_seen"] == 80

    def test_gradient_checkpointing_changes_nothing(self, run_training, plain):
        saving = run_training("saving", "--max_train_steps=4", "--model.gradient_checkpointing=true")
        assert torch.allclose(losses(plain), losses(saving), atol=1e-5, rtol=0)

    def test_bf16_stays_near_fp32(self, run_training, plain):
        rounded = run_training("rounded", "--max_train_steps=4", "--mixed_precision=bf16")
        assert not torch.equal(losses(plain), losses(rounded))
        assert torch.allclose(losses(plain), losses(rounded), atol=0.02, rtol=0)

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["regional", "full"])
    def test_compile_changes_nothing(self, run_training, mode):
        plain = run_training("plain", "--max_train_steps=3")
        compiled = run_training("compiled", "--max_train_steps=3", f"--compile={mode}")
        assert torch.allclose(losses(plain), losses(compiled), atol=1e-4, rtol=0)
        assert (
            load_pipeline(str(compiled / "pipeline")).unet.state_dict().keys()
            == load_pipeline(str(plain / "pipeline")).unet.state_dict().keys()
        )

    def test_sample_grids_do_not_disturb_training(self, run_training):
        quiet = run_training("quiet", "--max_train_steps=4", "--model.overrides.dropout=0.1")
        looking = run_training(
            "looking", "--max_train_steps=4", "--model.overrides.dropout=0.1", "--logging.sample_every_steps=1"
        )
        assert torch.equal(losses(quiet), losses(looking))


class TestObjectives:
    @pytest.mark.parametrize(
        "options",
        [
            ["--objective.prediction_type=epsilon", "--schedule.beta_schedule=linear"],
            ["--objective.prediction_type=sample", "--objective.loss=l1", "--schedule.beta_schedule=sigmoid"],
            [
                "--objective.loss_weighting=min_snr",
                "--objective.snr_gamma=5",
                "--schedule.rescale_zero_terminal_snr=true",
                "--schedule.beta_schedule=scaled_linear",
                "--objective.loss=huber",
            ],
        ],
    )
    def test_training_lowers_the_loss(self, run_training, options):
        folder = run_training(
            "run", "--max_train_steps=60", "--optim.learning_rate=0.004", "--logging.every_steps=20", *options
        )
        values = losses(folder)
        assert values.isfinite().all()
        assert values[-1] < 0.9 * values[0]

    def test_few_timesteps_train_and_preview(self, run_training, monkeypatch):
        monkeypatch.setattr(preview, "MAX_INFERENCE_STEPS", 20)
        folder = run_training(
            "run", "--max_train_steps=2", "--schedule.num_train_timesteps=7", "--logging.sample_every_steps=1"
        )
        assert names_in(folder / "samples") == ["grid.json", "step-00000001.png", "step-00000002.png"]
        assert RunFolder(folder).read_grid_settings().num_inference_steps == 7

    def test_a_model_from_a_config_json(self, run_training, plain):
        folder = run_training("run", "--max_train_steps=1", f"--model.preset={plain / 'pipeline' / 'unet'}")
        saved = load_pipeline(str(folder / "pipeline")).unet.config
        assert saved.block_out_channels == [8, 16]

    def test_unconditional_model(self, run_training):
        folder = run_training("run", "--max_train_steps=2", "--data.class_conditional=false")
        pipeline = load_pipeline(str(folder / "pipeline"))
        assert not pipeline.is_conditional
        batch = next(generate(pipeline, class_labels=[None] * 3, num_inference_steps=2))
        assert batch.images.shape == (3, 8, 8, 1)

    def test_without_label_dropout_there_is_no_null_label(self, run_training):
        folder = run_training("run", "--max_train_steps=1", "--objective.class_dropout_prob=0")
        pipeline = load_pipeline(str(folder / "pipeline"))
        assert pipeline.null_label is None
        assert pipeline.unet.config.num_class_embeds == 10

    def test_zero_null_embedding_stays_zero(self, run_training):
        folder = run_training(
            "run", "--max_train_steps=5", "--model.null_embedding=zero", "--optim.weight_decay=0.1",
            "--objective.class_dropout_prob=0.5",
        )  # fmt: skip
        trained = load_file(folder / "checkpoints/step-00000005/training/model.safetensors")["class_embedding.weight"]
        averaged = load_file(folder / "pipeline/unet/diffusion_pytorch_model.safetensors")["class_embedding.weight"]
        for rows in (trained, averaged):
            assert (rows[10] == 0).all()
            assert (rows[:10] != 0).any(dim=1).all()

    def test_without_ema_the_trained_weights_are_saved(self, run_training):
        folder = run_training("run", "--max_train_steps=2", "--ema.decay=null")
        trained = load_file(folder / "checkpoints/step-00000002/training/model.safetensors")
        saved = load_file(folder / "pipeline/unet/diffusion_pytorch_model.safetensors")
        assert all(torch.equal(trained[name], saved[name]) for name in trained)


class TestFaults:
    def test_a_diverging_run_stops_before_the_step(self, run_training, tmp_path):
        with pytest.raises(FloatingPointError, match="step was not applied"):
            run_training("run", "--max_train_steps=20", "--optim.learning_rate=1e30", "--optim.max_grad_norm=null")
        assert all(math.isfinite(record["loss"]) for record in metrics(tmp_path / "run"))

    def test_interrupt_says_how_to_continue(self, run_training, monkeypatch):
        import hf_ddpm.training.loop as loop

        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(loop, "micro_batch_loss", interrupted)
        with pytest.raises(KeyboardInterrupt, match="--resume auto"):
            run_training("run", "--max_train_steps=3")
