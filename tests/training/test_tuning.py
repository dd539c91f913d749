"""What a run chooses by timing its own network, what it records, and what a run that continues it keeps."""

import json
import shutil

import pytest
import torch

import hf_ddpm.training.tuning as tuning_module
from hf_ddpm.cli import parse_config
from hf_ddpm.run_folder import STATE, RunFolder
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.training import loop
from hf_ddpm.training.checkpoints import write_manifest
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.own_objects import NO_OBJECTS
from hf_ddpm.training.slowdown import MUCH, WARM_UP, WINDOW, StepWatch, describe_slowdown
from hf_ddpm.training.task import set_up
from hf_ddpm.training.tuning import Trial, Tuning, recorded_tuning, tune

FP32, BF16, BF16_LAST = ("fp32", "contiguous"), ("bf16", "contiguous"), ("bf16", "channels_last")
HERE = {"processor": "a CPU", "device": "cpu", "num_processes": 1}


@pytest.fixture
def config_of(tiny_options, tmp_path):
    """Options with which precision and threads are chosen, unless others are given."""
    options = [option for option in tiny_options if not option.startswith(("--num_threads", "--mixed_precision"))]

    def build(*more: str, name: str = "run") -> TrainConfig:
        return parse_config(TrainConfig, [*options, "--max_train_steps=2", f"--output_dir={tmp_path / name}", *more])

    return build


@pytest.fixture
def measured(monkeypatch):
    """Pretend that these times were measured; the ways and threads that were compared."""
    compared = []

    def pretend(ways: dict | None = None, threads: dict | None = None) -> list:
        def compare_ways(trial, candidates):
            compared.append(candidates)
            return {way: ways[way] for way in candidates}

        def compare_thread_counts(trial, way, most):
            compared.append((way, most))
            return threads

        monkeypatch.setattr(tuning_module, "compare_ways", compare_ways)
        monkeypatch.setattr(tuning_module, "compare_thread_counts", compare_thread_counts)
        monkeypatch.setattr(tuning_module, "available_threads", lambda: max(threads or {1: 1.0}))
        return compared

    return pretend


def no_trial(device):
    raise AssertionError("nothing is to be measured")


def choose(config, recorded=None, build_trial=lambda device: None) -> Tuning:
    return tune(config, build_trial, init_distributed(), recorded)


@pytest.mark.parametrize(
    ("ways", "precision", "memory_format"),
    [
        ({FP32: 1.0, BF16: 0.5, BF16_LAST: 0.49}, "bf16", "contiguous"),
        ({FP32: 1.0, BF16: 0.5, BF16_LAST: 0.4}, "bf16", "channels_last"),
        ({FP32: 1.0, BF16: 1.4, BF16_LAST: 0.95}, "fp32", "contiguous"),
        ({FP32: 1.0, BF16: 36.0, BF16_LAST: 30.0}, "fp32", "contiguous"),
    ],
)
def test_the_measured_times_decide(config_of, measured, ways, precision, memory_format):
    measured(ways, threads={1: 1.0, 2: 0.5})
    chosen = choose(config_of())
    assert (chosen.mixed_precision, chosen.memory_format, chosen.num_threads) == (precision, memory_format, 2)
    for way, value in ways.items():
        assert f"{' '.join(way)} {value:.2f}" in chosen.reason
    assert "1 thread 1.00, 2 threads 0.50" in chosen.reason


def test_what_the_options_say_is_not_measured(config_of, tiny_options):
    chosen = choose(config_of("--mixed_precision=fp32", "--num_threads=3"), build_trial=no_trial)
    assert chosen == Tuning(mixed_precision="fp32", memory_format="contiguous", num_threads=3)


@pytest.mark.parametrize(("times", "warned"), [(9.0, True), (1.1, False), (0.5, False)])
def test_a_user_who_asks_for_slow_bf16_is_warned(config_of, measured, caplog, times, warned):
    measured({FP32: 1.0, BF16: times, BF16_LAST: times})
    assert choose(config_of("--mixed_precision=bf16", "--num_threads=1")).mixed_precision == "bf16"
    assert ("9.0 times as long as in fp32, give auto or fp32" in caplog.text) == warned
    assert len(caplog.records) == warned


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("bf16", "channels_last", 2)),
        (["--num_threads=1"], ("bf16", "channels_last", 1)),
        (["--mixed_precision=fp32"], ("fp32", "contiguous", 2)),
        (["--memory_format=contiguous"], ("bf16", "contiguous", 2)),
    ],
)
def test_a_run_that_is_continued_keeps_its_choices_unless_others_are_given(config_of, options, expected):
    recorded = {"mixed_precision": "bf16", "memory_format": "channels_last", "num_threads": 2}
    chosen = choose(config_of(*options), recorded, no_trial)
    assert (chosen.mixed_precision, chosen.memory_format, chosen.num_threads) == expected
    assert chosen.reason == "as in the checkpoint"


@pytest.mark.parametrize(("widths", "memory_format"), [("[8, 16]", "contiguous"), ("[64, 64]", "channels_last")])
def test_a_checkpoint_without_a_memory_format_is_continued_in_that_of_its_version(config_of, widths, memory_format):
    config = config_of(f"--model.overrides.block_out_channels={widths}")
    data = loop.load_data(config, NO_OBJECTS, init_distributed())
    recorded = {"mixed_precision": "bf16", "num_threads": 1}
    chosen = choose(config, recorded, lambda device: loop.build_trial(config, NO_OBJECTS, data, device))
    assert (chosen.mixed_precision, chosen.memory_format, chosen.num_threads) == ("bf16", memory_format, 1)


def test_what_a_checkpoint_records_counts_on_its_machine_alone():
    identity = {"mixed_precision": "bf16", "environment": {**HERE, "num_threads": 2}}
    assert recorded_tuning(identity, HERE) == {"mixed_precision": "bf16", "num_threads": 2}
    for name, other in (("processor", "another"), ("device", "cuda"), ("num_processes", 2)):
        assert recorded_tuning(identity, {**HERE, name: other}) == {}


@pytest.mark.parametrize(("name", "value"), [("mixed_precision", ["bf16"]), ("mixed_precision", "fp8"), ("num_threads", -1)])
def test_a_record_that_cannot_be_is_not_believed(name, value):
    identity = {"environment": dict(HERE)}
    (identity if name == "mixed_precision" else identity["environment"])[name] = value
    assert recorded_tuning(identity, HERE) == {}


def test_steps_are_really_timed_and_leave_no_trace(config_of):
    """With the real clock: the weights of a run do not depend on whether steps were timed before."""
    config = config_of("--model.overrides.dropout=0.5")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run, state = set_up(config, loop.training_task(config), init_distributed())
    run.batches.close()
    assert run.tuning.mixed_precision in ("fp32", "bf16") and "fp32 contiguous 1.00" in run.tuning.reason
    torch.set_rng_state(before)
    torch.set_num_threads(1)
    given = config_of("--model.overrides.dropout=0.5", "--mixed_precision=fp32", "--num_threads=1")
    other_run, other = set_up(given, loop.training_task(given), init_distributed())
    other_run.batches.close()
    for name, tensor in state.network.state_dict().items():
        assert torch.equal(tensor, other.network.state_dict()[name]), name


def test_the_global_generator_stays(config_of, monkeypatch):
    config = config_of()
    data = loop.load_data(config, NO_OBJECTS, init_distributed())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    tune(config, lambda device: loop.build_trial(config, NO_OBJECTS, data, device), init_distributed())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_records_its_choice_and_its_continuation_keeps_it(config_of, measured, tmp_path, capsys, monkeypatch):
    compared = measured({FP32: 1.0, BF16: 0.5, BF16_LAST: 0.4}, threads={1: 1.0, 2: 0.5})
    loop.train(config_of())
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("settings: "))
    assert line.startswith("settings: bf16, channels_last, 2 threads (time of a step: fp32 contiguous 1.00, ")
    folder = RunFolder(tmp_path / "run")
    environment = json.loads(folder.environment.read_text())
    assert (environment["mixed_precision"], environment["memory_format"]) == ("bf16", "channels_last")
    assert environment["num_threads"] == 2 and environment["tuning"] in line
    assert "mixed_precision: auto" in folder.config.read_text()
    assert len(compared) == 2
    loop.train(config_of("--max_train_steps=3", "--resume=auto"))
    assert len(compared) == 2, "nothing is measured again"
    out = capsys.readouterr().out
    assert "settings: bf16, channels_last, 2 threads (as in the checkpoint)" in out


def test_another_precision_than_the_recorded_one_is_warned_about(config_of, measured, caplog):
    measured({FP32: 1.0, BF16: 2.0, BF16_LAST: 2.0}, threads={1: 1.0})
    loop.train(config_of())
    loop.train(config_of("--max_train_steps=3", "--resume=auto", "--mixed_precision=bf16"))
    assert "mixed_precision was 'fp32' and is now 'bf16': the run continues, but not bit for bit" in caplog.text


def test_a_checkpoint_of_an_earlier_version_resumes_in_silence(config_of, tmp_path, caplog):
    """It has the precision of its options and its threads, and no memory format."""
    loop.train(config_of("--mixed_precision=fp32", "--num_threads=1"))
    checkpoint = RunFolder(tmp_path / "run").last_checkpoint()
    saved = json.loads((checkpoint / STATE).read_text())
    del saved["identity"]["memory_format"]
    (checkpoint / STATE).write_text(json.dumps(saved))
    (checkpoint / "manifest.json").unlink()
    write_manifest(checkpoint)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    loop.train(config_of("--max_train_steps=3", "--resume=auto", name="again"))
    assert "bit for bit" not in caplog.text


def test_slow_steps_are_noticed_once():
    watch = StepWatch()
    noticed = [watch.add(seconds) for seconds in [9.0] * WARM_UP + [1.0] * WINDOW + [1.9] * WINDOW + [3.0] * 5 * WINDOW]
    assert [times for times in noticed if times is not None] == [3.0]
    assert 1.9 < MUCH <= 3.0


@pytest.mark.parametrize(
    ("num_threads", "times", "said"),
    [
        (
            2,
            {1: 0.2, 2: 1.0},
            "with 1 thread would now be 5.0 times as fast: stop the run and add --resume auto",
        ),
        (2, {1: 0.9, 2: 1.0}, "another number of threads would not help"),
        (1, {1: 2.0, 2: 1.0}, "with 2 threads would now be 2.0 times as fast"),
    ],
)
def test_what_would_help_is_measured(monkeypatch, num_threads, times, said):
    monkeypatch.setattr("hf_ddpm.training.slowdown.compare_thread_counts", lambda trial, way, most: times)
    monkeypatch.setattr("hf_ddpm.training.slowdown.available_threads", lambda: 2)
    chosen = Tuning(mixed_precision="fp32", memory_format=None, num_threads=num_threads)
    message = describe_slowdown(3.0, chosen, lambda device: None, init_distributed())
    assert message.startswith("steps take 3.0 times as long as at the start") and said in message


def test_a_step_has_the_images_of_a_micro_step_at_most():
    seen = []

    def forward(network, images):
        seen.append(len(images))
        return network(images.flatten(1))

    trial = Trial(network=torch.nn.Linear(4, 2), forward=forward, image_shape=(1, 2, 2), batch_size=16)
    tuning_module.compare_ways(trial, [FP32, BF16])
    assert seen[0] == 2 and max(seen) <= 16
