"""Training on sets of labels and on numbers: dropout, previews, resuming, streams, and what follows a training."""

import json
import shutil

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_ddpm.cli import parse_config
from hf_ddpm.data.sources import open_splits
from hf_ddpm.diffusion.objective import drop_labels, network_labels
from hf_ddpm.evaluation import protocol
from hf_ddpm.evaluation.options import EvaluationConfig
from hf_ddpm.figures.registry import FIGURES
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.sampling import load_pipeline
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import GANConfig, TrainConfig

LABELS = ["even", "large"]
CONDITIONS = {
    "labels": ["--data.condition=labels"],
    "number": ["--data.condition=number", "--data.label_column=brightness"],
}
both = pytest.mark.parametrize("condition", list(CONDITIONS))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    """Some of the digits with the labels even and large, and their brightness."""
    splits, _ = open_splits("digits")
    lists, made = datasets.List(datasets.ClassLabel(names=LABELS)), {}
    for name, count in (("train", 48), ("test", 24)):
        some = splits[name].select(range(count))
        tags = [[place for place, has in enumerate((digit % 2 == 0, digit >= 5)) if has] for digit in some["label"]]
        some = some.add_column("tags", tags, feature=lists)
        some = some.add_column("brightness", [float(np.mean(image)) for image in some["image"]])
        made[name] = some.remove_columns("label")
    folder = tmp_path_factory.mktemp("conditions") / "digits"
    datasets.DatasetDict(made).save_to_disk(folder)
    return f"--data.source={folder}"


@pytest.fixture(scope="module")
def config_of(source, tiny_options):
    def build(condition: str, folder, *more: str) -> TrainConfig:
        options = [option for option in tiny_options if not option.startswith("--data.source")]
        given = [source, "--data.test_split=test", *CONDITIONS[condition], f"--output_dir={folder}", *more]
        return parse_config(TrainConfig, [*options, *given])

    return build


@pytest.fixture
def run_of(config_of, shared, tmp_path_factory):
    """A run of two steps, trained once for all tests of the file."""

    def run(condition: str) -> RunFolder:
        if condition not in shared:
            folder = tmp_path_factory.mktemp(condition) / "run"
            train(config_of(condition, folder, "--max_train_steps=2", "--checkpoint.every_steps=1"))
            shared[condition] = RunFolder(folder)
        return shared[condition]

    return run


def test_dropped_conditions_are_the_null_vector():
    labels = network_labels(torch.tensor([[True, False], [True, True], [False, False]]), 2)
    assert labels.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    dropped = drop_labels(labels, torch.tensor([0.05, 0.5, 0.0]), 0.1, 2)
    assert dropped.tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 1]]
    numbers = network_labels(torch.tensor([[0.5], [3.0]], dtype=torch.float64), None)
    assert numbers.dtype == torch.float32 and numbers.tolist() == [[0.5], [3.0]]


@both
def test_a_resumed_run_is_bit_equal(condition, run_of, config_of, tmp_path):
    first, whole = run_of(condition).path, tmp_path / "run"
    shutil.copytree(first, whole)
    for path in (whole / "checkpoints/step-00000002", whole / "pipeline"):
        shutil.rmtree(path)
    train(config_of(condition, whole, "--max_train_steps=2", "--checkpoint.every_steps=1", "--resume=auto"))
    name = "pipeline/unet/diffusion_pytorch_model.safetensors"
    expected, found = (load_file(folder / name) for folder in (first, whole))
    assert any(key.startswith("class_embedding") for key in expected) and expected.keys() == found.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@both
def test_the_pipeline_of_a_run_knows_its_conditions(condition, run_of):
    pipeline = load_pipeline(str(run_of(condition).pipeline))
    assert pipeline.condition == condition and pipeline.null_label == len(pipeline.id2label)
    if condition == "labels":
        assert pipeline.id2label == dict(enumerate(LABELS))
    else:
        assert pipeline.id2label == {0: "brightness"} and pipeline.condition_range[0] < pipeline.condition_range[1]


def test_previews_show_the_usual_sets_of_labels_and_numbers_over_the_range(run_of):
    grid = run_of("labels").read_grid_settings()
    assert sorted(grid.class_labels) == [[], [0], [0, 1], [1]]
    assert sorted(grid.class_names) == ["even", "even+large", "large", "none"]
    numbers = run_of("number").read_grid_settings().class_labels
    assert len(numbers) == 10 and np.allclose(np.diff(numbers), np.diff(numbers)[0])


@both
def test_the_card_says_how_to_call_it(condition, run_of):
    card = (run_of(condition).pipeline / "README.md").read_text()
    if condition == "labels":
        assert 'pipeline(class_labels=[["even"], ["even", 1]], guidance_scale=1.5' in card and "| 1 | large |" in card
        assert "with any set of 2 labels" in card
    else:
        low, high = load_pipeline(str(run_of(condition).pipeline)).condition_range
        assert f"for a number, brightness, from {low:g} to {high:g}" in card and "classes" not in card
        assert "`class_labels` takes a number for each image" in card


@both
def test_the_loss_depends_on_the_condition(condition, run_of):
    rows = [json.loads(line) for line in run_of(condition).metrics.read_text().splitlines()]
    assert any("test_loss" in row for row in rows)


@both
def test_an_evaluation_draws_conditions_of_training_images(condition, run_of, tiny_judge, tmp_path):
    options = ["--features", f"judge:{tiny_judge}", "--min_judge_accuracy=null", "--num_images=12", "--num_seeds=1"]
    options += [f"--model={run_of(condition).pipeline}", "--sampling.num_inference_steps=2", "--num_threads=1"]
    results = protocol.evaluate(parse_config(EvaluationConfig, [*options, f"--output={tmp_path / 'results.json'}"]))
    assert results.protocol["class_prior"] == "train"
    assert "class_accuracy" not in results.metrics and not results.per_class
    assert {"precision", "simple_loss_train", "simple_loss_test", "nearest_train_distance"} <= results.metrics.keys()


@both
@pytest.mark.parametrize("figure", ["guided", "posterior", "inpainting"])
def test_figures(figure, condition, run_of, tmp_path):
    config_class, plot = FIGURES[figure]
    more = {"guided": ["--per_class=1", "--num_inference_steps=2"], "posterior": ["--timesteps=[500]"]}.get(figure, [])
    more = more or ["--num_images=1", "--num_inference_steps=10", "--jump_length=5", "--jump_n_sample=1"]
    config = parse_config(config_class, [f"--model={run_of(condition).pipeline}", f"--output={tmp_path / 'figure'}", *more])
    assert all(path.is_file() for path in plot(config))


def test_a_stream_of_numbers(config_of, tmp_path):
    more = ["--data.streaming", "--data.shuffle_buffer=8", "--max_train_steps=1", "--data.condition_range=[0, 255]"]
    train(config_of("number", tmp_path / "run", *more))
    assert load_pipeline(str(tmp_path / "run" / "pipeline")).condition_range == (0, 255)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.architecture=tiny_unet"], "--data.condition number the network is a unet, leave it out"),
        (["--model.null_embedding=zero"], "the null embedding is learned"),
        (["--model.init_from=google/nothing"], "--model.init_from"),
        (["--model.overrides.condition_range=[0, 1]"], "follows the data: set"),
        (["--data.condition_range=[1, 0]"], "give the lowest and then the highest number"),
    ],
)
def test_options_that_do_not_go_together(options, words, refusal_of):
    message = refusal_of(TrainConfig, "--output_dir=new", "--max_train_steps=1", *CONDITIONS["number"], *options)
    assert words in message


def test_a_gan_has_classes_only(refusal_of):
    message = refusal_of(GANConfig, "--output_dir=new", "--max_train_steps=1", "--data.image_size=8", *CONDITIONS["labels"])
    assert "unknown option --data.condition" in message


@both
def test_another_condition_is_another_run(condition, run_of, config_of):
    other = "number" if condition == "labels" else "labels"
    with pytest.raises(ValueError, match=r"data\.condition was"):
        train(config_of(other, run_of(condition).path, "--max_train_steps=3", "--resume=auto"))
