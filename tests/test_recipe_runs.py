"""Every recipe trains, samples and resumes on data of its own schema: the whole matrix is slow, a few of them always run."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_ddpm import DCGANPipeline
from hf_ddpm.cli import load_recipe, parse_config, recipe_program
from hf_ddpm.models.unet import UNET_PRESETS
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.sampling import generate, load_pipeline
from hf_ddpm.training import preview
from hf_ddpm.training.loop import training_task
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.task import set_up

RECIPES = sorted((Path(__file__).parents[1] / "train_scripts" / "recipes").glob("*.yaml"))
ALWAYS = ("a_cifar100_cfg", "a_mnist_class_map", "c_gan_cats_frogs", "e_fashion_mnist_cosine")
STEPS, HALF = 4, 2
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLOTHES = ("T - shirt / top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class Schema:
    """What a data set of the Hub looks like."""

    shape: tuple[int, ...]  # (H, W) grayscale or (H, W, 3)
    labels: dict[str, tuple[str, ...]]  # class names of each label column
    image_column: str = "image"
    splits: tuple[str, ...] = ("train", "test")
    odd_sizes: bool = False  # photos, each of a size of its own


def numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))


SCHEMAS = {
    "ylecun/mnist": Schema((28, 28), {"label": tuple("0123456789")}),
    "zalando-datasets/fashion_mnist": Schema((28, 28), {"label": CLOTHES}),
    "uoft-cs/cifar10": Schema((32, 32, 3), {"label": CLASSES}, "img"),
    "uoft-cs/cifar100": Schema((32, 32, 3), {"fine_label": numbered(100), "coarse_label": numbered(20)}, "img"),
    "zh-plus/tiny-imagenet": Schema((64, 64, 3), {"label": numbered(200)}, splits=("train", "valid")),
    "tanganke/stanford_cars": Schema(
        (150, 210, 3), {"label": numbered(196)}, splits=("train", "test", "contrast"), odd_sizes=True
    ),
}


def write_split(path: Path, schema: Schema, count: int) -> None:
    """A parquet file of images of noise, with labels that take turns."""
    generator = np.random.default_rng(count)
    columns: dict = {schema.image_column: []}
    for row in range(count):
        height, width, *channels = schema.shape
        grown = row % 5 * schema.odd_sizes
        pixels = generator.integers(0, 256, (height + 3 * grown, width - 7 * grown, *channels), dtype=np.uint8)
        columns[schema.image_column].append(PIL.Image.fromarray(pixels))
    features = {schema.image_column: datasets.Image()}
    for name, class_names in schema.labels.items():
        columns[name] = [row % len(class_names) for row in range(count)]
        features[name] = datasets.ClassLabel(names=list(class_names))
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)


@pytest.fixture(scope="session")
def copy_of(tmp_path_factory) -> Callable[[str], str]:
    """Stand-in for a source: a folder with 40 images per split, created on first use."""
    root = tmp_path_factory.mktemp("sources")

    def folder_of(source: str) -> str:
        folder = root / source
        if source != "digits" and not folder.exists():
            folder.mkdir(parents=True)
            files = {split: f"{split}-00000-of-00001.parquet" for split in SCHEMAS[source].splits}
            for name in files.values():
                write_split(folder / name, SCHEMAS[source], 40)
            # As on the Hub; without it the library calls a file "valid-..." the split "validation".
            data_files = [{"split": split, "path": name} for split, name in files.items()]
            card = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": data_files}]})
            (folder / "README.md").write_text(f"---\n{card}---\n", encoding="utf-8")
        return source if source == "digits" else str(folder)

    return folder_of


def narrow(options: dict) -> list[str]:
    """Options of a diffusion recipe that leave all as it is but the width of the network."""
    model = {"architecture": "unet", **options["model"]}
    widths = {**UNET_PRESETS[model["preset"]], **(model.get("overrides") or {})}["block_out_channels"]
    overrides = {"block_out_channels": [8] * len(widths), "norm_num_groups": 4}
    if model["architecture"] in ("unet", "class_map_unet"):
        overrides["attention_head_dim"] = 4
    return ["--model.overrides", json.dumps(overrides)]


@pytest.fixture
def run_recipe(load_script, copy_of, tmp_path):
    """Train a recipe for four steps into tmp_path / name, with more options; that folder."""

    def run(recipe: Path, name: str, *options: str) -> Path:
        script, written = recipe_program(recipe), load_recipe(recipe)
        folder = tmp_path / name
        load_script(script).main(
            [
                *("--config", str(recipe), "--output_dir", str(folder), "--data.source", copy_of(written["data"]["source"])),
                *("--num_train_epochs", "null", "--max_train_steps", str(STEPS), "--checkpoint.every_steps", str(HALF)),
                *("--data.batch_size", "4", "--logging.every_steps", "1", "--num_threads", "1", "--mixed_precision", "fp32"),
                *(narrow(written) if script == "train" else []),
                *options,
            ]
        )
        return folder

    return run


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint: networks, averages and the optimizer's."""
    return {
        f"{path.relative_to(checkpoint)}:{name}": tensor
        for path in checkpoint.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def matrix(recipes: list[Path]) -> list:
    """Parameters: those that are not always run have the mark `slow`."""
    return [
        pytest.param(recipe, id=recipe.stem, marks=[] if recipe.stem in ALWAYS else pytest.mark.slow) for recipe in recipes
    ]


def test_what_always_runs_are_recipes():
    assert set(ALWAYS) <= {recipe.stem for recipe in RECIPES}


@pytest.mark.parametrize("recipe", matrix(RECIPES))
def test_a_recipe_trains_samples_and_resumes(run_recipe, recipe, monkeypatch):
    monkeypatch.setattr(preview, "MAX_INFERENCE_STEPS", 2)
    monkeypatch.setattr(preview, "COLUMNS", 2)
    whole = run_recipe(recipe, "whole")
    half, end = (Path("checkpoints") / f"step-{step:08d}" for step in (HALF, STEPS))
    again = run_recipe(recipe, "again", "--resume", str(whole / half))
    trained, resumed, before = weights(whole / end), weights(again / end), weights(whole / half)
    assert trained.keys() == resumed.keys() == before.keys() and len(trained) > 10
    assert all(torch.equal(trained[name], resumed[name]) for name in trained)
    assert any(not torch.equal(trained[name], before[name]) for name in trained)

    saved = [yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) for folder in (whole, again)]
    losses = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
    assert saved[0]["data"] == saved[1]["data"] and [line["step"] for line in losses if "lr" in line] == [3, 4]
    if recipe_program(recipe) != "train_judge":
        check_samples(again / "pipeline", saved[0]["data"])


def check_samples(pipeline_dir: Path, data: dict) -> None:
    """Two images, of the first and the last class where there are classes, that have the recipe's classes and size."""
    pipeline = load_pipeline(str(pipeline_dir))
    names = list((pipeline.id2label or {}).values())
    assert bool(names) == (data["class_conditional"] is not False)
    assert data["labels"] in (None, names) or not names
    steps = {} if isinstance(pipeline, DCGANPipeline) else {"num_inference_steps": 2}
    (batch,) = generate(pipeline, class_labels=[0, len(names) - 1] if names else [None, None], **steps)
    assert batch.images.dtype == np.uint8 and len(batch.images) == 2 and batch.images.std() > 0
    if data["image_size"] is not None:
        assert batch.images.shape[1:3] == (data["image_size"],) * 2


def test_of_two_label_columns_one_must_be_named(run_recipe, capsys, tmp_path):
    recipe = next(recipe for recipe in RECIPES if recipe.stem == "a_cifar100_cfg")
    with pytest.raises(SystemExit) as stopped:
        run_recipe(recipe, "new", "--data.label_column", "null")
    message = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and not (tmp_path / "new").exists()
    assert message.endswith("the labels could be in fine_label or coarse_label: name one with --data.label_column")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [pytest.param(r, id=r.stem) for r in RECIPES if recipe_program(r) == "train"])
def test_the_whole_network_of_a_recipe_runs(copy_of, recipe, tmp_path):
    source = copy_of(load_recipe(recipe)["data"]["source"])
    options = ["--config", str(recipe), "--output_dir", str(tmp_path), "--data.source", source, "--data.batch_size", "4"]
    config = parse_config(TrainConfig, options)
    run, state = set_up(config, training_task(config), init_distributed())
    network = state.network.eval()
    labels = torch.tensor([len(run.images.class_names) - 1]) if run.images.class_names else None
    with torch.no_grad():
        images = network(torch.randn(1, *run.image_shape), torch.tensor([1]), class_labels=labels).sample
    assert images.shape == (1, *run.image_shape) and images.isfinite().all()
