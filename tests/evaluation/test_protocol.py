"""Evaluation: metrics are those of the images, for any batch size, number of processes and interruptions."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image

import hf_ddpm.evaluation.protocol as protocol
from hf_ddpm.cli import parse_config
from hf_ddpm.data.table import load_images
from hf_ddpm.evaluation.features import build_extractor
from hf_ddpm.evaluation.options import MAX_IMAGES, EvaluationConfig, ReferenceDataConfig
from hf_ddpm.heldout_metrics import simple_loss
from hf_ddpm.markdown import mean_with_error
from hf_ddpm.metrics.frechet import RunningStatistics, frechet_distance
from hf_ddpm.metrics.precision_recall import manifold_metrics
from hf_ddpm.results import Results
from hf_ddpm.runtime.lock import OutputLock
from hf_ddpm.runtime.signals import Stopped
from hf_ddpm.sampling import generate, load_pipeline

ROOT = Path(__file__).parents[2]
NUM_IMAGES, NUM_SEEDS, STEPS = 24, 2, 2


@pytest.fixture(scope="module")
def options(tiny_run, tiny_judge):
    """Command line of an evaluation of the tiny run with the results at a path."""

    def build(output: Path, *more: str) -> list[str]:
        given = {option.split("=")[0] for option in more}
        defaults = [
            f"--model={tiny_run / 'pipeline'}",
            f"--features=judge:{tiny_judge}",
            "--min_judge_accuracy=null",
            f"--num_images={NUM_IMAGES}",
            f"--num_seeds={NUM_SEEDS}",
            f"--sampling.num_inference_steps={STEPS}",
            "--device=cpu",
            "--num_threads=1",
        ]
        return [*(option for option in defaults if option.split("=")[0] not in given), *more, f"--output={output}"]

    return build


@pytest.fixture
def measure(options, tmp_path):
    def run(name: str, *more: str) -> Results:
        return protocol.evaluate(parse_config(EvaluationConfig, options(tmp_path / f"{name}.json", *more)))

    return run


@pytest.fixture(scope="module")
def plain(options, tmp_path_factory) -> Results:
    """Evaluated once without further options."""
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patch.setattr(constants, "HF_HOME", str(folder / "hf_home"))
        torch.set_num_threads(1)
        return protocol.evaluate(parse_config(EvaluationConfig, options(folder / "plain.json")))


def assert_same_scores(found: Results, expected: Results) -> None:
    assert found.metrics.keys() == expected.metrics.keys() and found.per_class.keys() == expected.per_class.keys()
    for name, value in expected.metrics.items():
        np.testing.assert_allclose(found.metrics[name].values, value.values, rtol=1e-4, atol=1e-6, err_msg=name)
    assert found.floor == pytest.approx(expected.floor, rel=1e-4, abs=1e-6)
    assert found.ceiling == pytest.approx(expected.ceiling, rel=1e-4, abs=1e-6)


def statistics_of(images: torch.Tensor, extractor):
    running = RunningStatistics(extractor.dim)
    running.update(extractor(images).features.numpy())
    return running.result()


def test_metrics_are_those_of_the_images(plain, tiny_run, tiny_judge):
    """Computed again from the images that `generate` samples with the documented seeds."""
    results = plain
    pipeline = load_pipeline(str(tiny_run / "pipeline"), device="cpu")
    extractor = build_extractor(f"judge:{tiny_judge}", device="cpu", min_judge_accuracy=None)
    train, test = (load_images("digits", split, image_size=8) for split in ("train", "test"))
    references = train.images(torch.arange(len(train)))
    labels = np.arange(NUM_IMAGES) % 10
    for number in range(NUM_SEEDS):
        samples = generate(
            pipeline, class_labels=labels.tolist(), seed=number * MAX_IMAGES, num_inference_steps=STEPS, guidance_scale=1.5
        )
        images = torch.from_numpy(np.concatenate([batch.images for batch in samples]).transpose(0, 3, 1, 2).copy())
        features = extractor(images)
        manifold = manifold_metrics(features.features, extractor(references).features)
        nearest = (images[:, None] / 255 - references[None] / 255).square().mean(dim=(2, 3, 4)).sqrt().min(dim=1).values
        expected = {
            "fd_judge": frechet_distance(statistics_of(images, extractor), statistics_of(references, extractor)),
            "precision": manifold.precision,
            "recall": manifold.recall,
            "density": manifold.density,
            "coverage": manifold.coverage,
            "class_accuracy": (features.probabilities.argmax(1).numpy() == labels).mean(),
            "nearest_train_distance": nearest.mean().item(),
            "simple_loss_test": simple_loss(pipeline, test, num_images=360, seed=number, spread=True).mean,
        }
        for name, value in expected.items():
            assert results.metrics[name].values[number] == pytest.approx(value, rel=1e-4), name
    assert results.metrics["simple_loss_test"].n == 360 and results.metrics["fd_judge"].n == NUM_IMAGES

    floor = test.images(torch.arange(NUM_IMAGES) * len(test) // NUM_IMAGES)
    distance = frechet_distance(statistics_of(floor, extractor), statistics_of(references, extractor))
    assert results.floor["fd_judge"] == pytest.approx(distance, rel=1e-4)
    assert results.ceiling["fd_judge"] > results.floor["fd_judge"]
    assert results.ceiling["nearest_train_distance"] > 2 * results.floor["nearest_train_distance"]


def test_mean_and_standard_error_over_the_seeds(measure, plain):
    values = plain.metrics["fd_judge"]
    assert len(set(values.values)) == NUM_SEEDS
    assert values.mean == pytest.approx(np.mean(values.values))
    assert values.stderr == pytest.approx(np.std(values.values, ddof=1) / math.sqrt(NUM_SEEDS))
    one = measure("one", "--num_seeds=1").metrics["fd_judge"]
    assert one.stderr is None and one.values == values.values[:1]


def test_results_do_not_depend_on_the_batch_size(measure, plain):
    assert_same_scores(measure("small", "--sampling.batch_size=5"), plain)


def test_results_do_not_depend_on_the_number_of_processes(plain, options, tmp_path):
    arguments = options(tmp_path / "two.json", "--sampling.batch_size=5")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, str(ROOT / "train_scripts" / "evaluate_model.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home")}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("fd_judge") == 2, "the table of metrics and that of classes, once"
    two = Results.read(tmp_path / "two.json")
    assert two.protocol["num_processes"] == 2 and "torchrun --nproc_per_node 2" in two.protocol["command"]
    assert_same_scores(two, plain)


@pytest.mark.usefixtures("listening_to_ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_finished_before_a_signal_is_kept(measure, plain, tmp_path, monkeypatch, number):
    generate, begun = protocol.generate, []

    def generate_until_the_second_seed(*args, **kwargs):
        begun.append(kwargs["seed"])
        if len(begun) == 2:
            signal.raise_signal(number)
        return generate(*args, **kwargs)

    monkeypatch.setattr(protocol, "generate", generate_until_the_second_seed)
    with pytest.raises(Stopped, match="continues after the last finished seed"):
        measure("stopped")
    assert not (tmp_path / "stopped.json").exists()
    again = measure("stopped")
    assert begun == [0, MAX_IMAGES, MAX_IMAGES], "the first seed was not sampled again"
    assert again.metrics == plain.metrics
    assert not list(tmp_path.glob(".stopped*"))


def test_seeds_of_other_options_are_not_taken_over(measure, plain, tmp_path, caplog):
    scores = [{"metrics": {"fd_judge": -1.0}, "per_class": {}, "seconds": {}}]
    (tmp_path / ".other.partial.json").write_text(json.dumps({"key": {"options": {}}, "scores": scores}))
    assert measure("other").metrics == plain.metrics
    (tmp_path / ".third.partial.json").write_text("{")
    assert measure("third").metrics == plain.metrics
    assert ".third.partial.json is damaged: its seeds are evaluated again" in caplog.text


def test_classes_of_a_subset_are_matched_by_name(measure):
    results = measure("eval", "--data.source=digits", "--data.labels=[7, 3]")
    assert list(results.per_class) == ["7", "3"]
    assert results.per_class["7"]["class_accuracy"].n == NUM_IMAGES // 2
    assert [str(label) for label in results.protocol["data_labels"]] == ["7", "3"]
    assert "simple_loss_test" not in results.metrics, "the labels of the data are others than the model's"


def test_a_model_is_measured_in_its_own_order_of_the_classes(measure, plain):
    """Earlier versions sorted numbers as text, and their models keep that order."""
    results = measure("eval", "--data.source=digits", f"--data.labels={list(range(9, -1, -1))}")
    assert results.metrics["simple_loss_test"] == plain.metrics["simple_loss_test"]


def test_class_prior(tiny_run):
    class Table:
        condition = "class"
        class_names, class_labels = [str(i) for i in range(10)], torch.tensor([0] * 6 + [1] * 2 + [9] * 2)

        def __len__(self):
            return 10

    pipeline = load_pipeline(str(tiny_run / "pipeline"), device="cpu")
    for prior, expected in (("balanced", [2] * 10), ("train", [12, 4, 0, 0, 0, 0, 0, 0, 0, 4])):
        config = protocol.ProtocolConfig(features="x", num_images=20, class_prior=prior)
        references = type("References", (), {"train": Table()})
        measurement = protocol.Measurement(config=config, references=references, stop=None)
        labels, classes = measurement.labels(pipeline)
        assert np.bincount(classes, minlength=10).tolist() == expected and labels == classes.tolist()


def test_the_test_split_as_reference(measure):
    results = measure("eval", "--reference_split=test")
    assert results.protocol["reference_images"] == 360
    assert results.floor.keys() <= results.metrics.keys()
    assert "nearest_train_distance" not in results.floor, "training images are their own nearest"


def test_a_checkpoint_and_bits_per_dimension(measure, tiny_run):
    checkpoint = sorted((tiny_run / "checkpoints").iterdir())[0]
    more = ["--bits_per_dim_images=4", "--bits_per_dim_timesteps=3", f"--model={checkpoint}"]
    bits = measure("eval", *more).metrics["bits_per_dim_test"]
    assert bits.n == 4 and all(0 < value < 100 for value in bits.values)


def test_the_program_writes_table_picture_and_card(load_script, options, tiny_run, tmp_path, capsys):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    output = run / "results" / "eval.json"
    load_script("evaluate_model").main(options(output, f"--model={run / 'pipeline'}"))
    printed = capsys.readouterr().out
    distance = Results.read(output).metrics["fd_judge"]
    text = mean_with_error(distance.mean, distance.stderr)
    assert f"| fd_judge | {text} |" in printed and f"| fd_judge | {text} |" in output.with_suffix(".md").read_text()
    assert output.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    card = (run / "pipeline" / "README.md").read_text()
    assert f"`fd_judge` | {text} |" in card and "- command: `python " in card
    (entry,) = yaml.safe_load(card.split("---")[1])["model-index"]
    assert entry["results"][0]["metrics"][0]["type"] == "fd_judge"
    with pytest.raises(SystemExit) as stopped:
        load_script("evaluate_model").main(options(output))
    assert stopped.value.code == 2 and "the file exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--features=fidelity"], "features is 'fidelity': give inception"),
        (["--features=judge:nowhere"], "judge 'nowhere': no such folder"),
        (["--min_judge_accuracy=0.9"], "less than min_judge_accuracy 0.9"),
        (["--num_images=5"], "--num_images is 5: density and coverage need at least 6"),
        (
            ["--data.source=digits", "--data.test_split=null", "--reference_split=test"],
            "name the split with --data.test_split",
        ),
        (["--data.test_split=held_out"], "split 'held_out' of `source` 'digits' does not exist"),
        (["--sampling.scheduler=euler_extra"], "scheduler is 'euler_extra'"),
        (["--sampling.num_inference_steps=2000"], "num_inference_steps is 2000"),
        (["--inception_weights=weights.pth"], "inception_weights is 'weights.pth': only with features 'inception'"),
        (["--reference_statistics=nowhere.npz"], "reference_statistics is 'nowhere.npz': it does not exist"),
        (["--model=nowhere/at/all"], "model is 'nowhere/at/all'"),
        (["--bits_per_dim_images=3", "--data.test_split=null"], "--bits_per_dim_images"),
    ],
)
def test_mistakes_are_one_line(measure, more, message):
    with pytest.raises(ValueError) as refused:
        measure("eval", *more)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_model_outside_its_run_needs_the_data(measure, tiny_run, tmp_path):
    alone = shutil.copytree(tiny_run / "pipeline", tmp_path / "alone")
    with pytest.raises(ValueError, match="source is None: the model belongs to no run"):
        measure("eval", f"--model={alone}")
    assert measure("eval", f"--model={alone}", "--data.source=digits").metrics["fd_judge"].mean > 0


def test_classes_unknown_to_the_model(measure, tmp_path):
    folder = tmp_path / "letters"
    for letter in "ab":
        (folder / "train" / letter).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8), 20 * number).save(folder / "train" / letter / f"{number}.png")
    with pytest.raises(ValueError, match="does not know class 'a'"):
        measure("eval", f"--data.source={folder}", "--data.test_split=null")


def test_results_that_another_evaluation_is_writing_are_refused(measure, tmp_path):
    """Also under a name that has the same table, picture and finished seeds."""
    with OutputLock(tmp_path / "same.json", option="output", file_name="same") as lock:
        lock.take()
        with pytest.raises(ValueError, match=rf"^output is '.*same\.json': process {os.getpid()} on .* is writing there"):
            measure("same")
    with pytest.raises(ValueError, match="no such folder"):
        measure("new/wrong", "--model=nothing")
    assert not (tmp_path / "new").exists(), "a mistake leaves no folder"


def test_the_references_of_a_model_have_the_range_that_it_was_trained_with():
    trained = {"source": "somewhere", "value_range": [0.0, 4095.0], "batch_size": 8}
    assert protocol.data_of_training(ReferenceDataConfig(), trained).value_range == (0, 4095)
    given = ReferenceDataConfig(value_range=(0, 1023))
    assert protocol.data_of_training(given, trained).value_range == (0, 1023)
