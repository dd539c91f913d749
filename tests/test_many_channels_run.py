"""Images of 48 x 32 pixels, 4 channels and 12 bits, from the files through every program to files again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_ddpm.data.table import load_images
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.results import Results
from hf_ddpm.run_folder import RunFolder

pytestmark = pytest.mark.slow
SIZE, CHANNELS, RANGE = (48, 32), 4, (0, 4095)
DATA = [
    "--data.image_size=[48,32]",
    "--data.channels=4",
    "--data.value_range=[0,4095]",
    "--data.test_split=test",
    "--data.batch_size=4",
    "--num_threads=1",
    "--mixed_precision=fp32",
]
NETWORK = [
    "--model.preset=digits8",
    "--model.overrides.block_out_channels=[8, 16]",
    "--model.overrides.norm_num_groups=4",
    "--model.overrides.attention_head_dim=4",
    "--logging.every_steps=1",
    "--logging.sample_every_steps=null",
    "--checkpoint.every_steps=2",
]


def stripes(label: str, number: int) -> np.ndarray:
    """An image whose stripes tell its class, with values in all of 12 bits."""
    rows, columns, channel = np.indices((*SIZE, CHANNELS))
    place = rows if label == "rows" else columns
    return ((place * 97 + channel * 1013 + number * 211) % 4096).astype(np.uint16)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bands")
    for split, count in (("train", 8), ("test", 8)):
        for label in ("columns", "rows"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                image = stripes(label, number + (100 if split == "test" else 0))
                np.save(folder / split / label / f"{number}.npy", image)
    return folder


@pytest.fixture
def run(load_script):
    return lambda name, *args: load_script(name).main([str(arg) for arg in args])


def test_from_files_to_files(source, run, tmp_path, capsys):
    data, runs = [f"--data.source={source}", *DATA], tmp_path / "runs"
    table = load_images(str(source), "train", image_size=SIZE, channels=CHANNELS, value_range=RANGE)
    values = table.images(torch.arange(len(table))).numpy().transpose(0, 2, 3, 1)
    expected = [stripes(label, number) for label in ("columns", "rows") for number in range(8)]
    assert (table.pixel_type, values.dtype) == ("uint16", np.uint16)
    assert {image.tobytes() for image in values} == {image.tobytes() for image in expected}

    # Trained in one go, and resumed at step 2: the same bits.
    train = [*data, *NETWORK]
    run("train", *train, "--max_train_steps=4", f"--output_dir={runs / 'whole'}")
    shutil.copytree(runs / "whole", runs / "parts")
    shutil.rmtree(RunFolder(runs / "parts").checkpoints()[4])
    run("train", *train, "--max_train_steps=4", f"--output_dir={runs / 'parts'}", "--resume=latest")
    weights = [
        load_file(RunFolder(runs / name).checkpoints()[4] / "training/model.safetensors") for name in ("whole", "parts")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    model = runs / "whole" / "pipeline"
    pipeline = CFGDDPMPipeline.from_pretrained(model)
    assert (pipeline.pixel_type, pipeline.value_range, [*pipeline.unet.config.sample_size]) == ("uint16", RANGE, [*SIZE])

    # Its samples are arrays, which are images to train on.
    samples = tmp_path / "samples"
    run("sample", f"--model={model}", "--per_class=4", "--num_inference_steps=2", f"--output_dir={samples}")
    files = sorted(samples.glob("*.npy"))
    assert len(files) == 8 and (tmp_path / "samples-grid.png").is_file()
    again = load_images(str(samples), "train", image_size=SIZE, channels=CHANNELS, value_range=RANGE, pixel_type="uint16")
    images = again.images(torch.arange(8)).numpy().transpose(0, 2, 3, 1)
    assert {image.tobytes() for image in images} == {np.load(file).tobytes() for file in files}
    assert again.class_names == ["columns", "rows"]

    # A judge of the same data measures it; Inception cannot.
    judge = ["--max_train_steps=4", "--model.widths=[4, 8]", "--model.depths=[1, 1]", f"--output_dir={runs / 'judge'}"]
    run("train_judge", *data, *judge)
    measure = [f"--model={model}", "--num_images=8", "--num_seeds=1", "--sampling.num_inference_steps=2", "--num_threads=1"]
    result = tmp_path / "eval.json"
    options = ["--min_judge_accuracy=null", "--bits_per_dim_images=2", "--bits_per_dim_timesteps=2", f"--output={result}"]
    run("evaluate_model", *measure, f"--features=judge:{runs / 'judge'}", *options)
    metrics = Results.read(result).metrics
    assert {"fd_judge", "class_accuracy", "nearest_train_distance", "simple_loss_test"} <= set(metrics)
    assert 8 < metrics["bits_per_dim_test"].mean < 40  # of 12, by an untrained model

    # Figures and edits, of chosen channels.
    figure = ["--view_channels", "3", "1", "0", "--output"]
    run("figures", "real", f"--data.source={source}", "--data.value_range=[0,4095]", "--data.channels=4", "--per_class=2",
        *figure, tmp_path / "real")  # fmt: skip
    for name, more in (
        ("reverse", []),
        ("forward", ["--num_images=2"]),
        ("inpainting", ["--num_images=2", "--jump_n_sample=1"]),
    ):
        more = [*more, "--num_inference_steps=12"] if name != "forward" else more
        run("figures", name, f"--model={model}", *more, *figure, tmp_path / name)
        assert (tmp_path / f"{name}.png").is_file()
    mask = np.zeros((*SIZE, 1), np.uint8)
    mask[:20] = 255
    np.save(tmp_path / "mask.npy", mask)
    image, edits = source / "test" / "rows" / "3.npy", tmp_path / "edits"
    run("edit", "inpaint", f"--model={model}", f"--images=[{image}]", f"--mask={tmp_path / 'mask.npy'}",
        "--num_inference_steps=4", "--jump_length=1", "--jump_n_sample=2", f"--output_dir={edits}")  # fmt: skip
    (edited,) = (np.load(file) for file in edits.glob("*.npy"))
    np.testing.assert_array_equal(edited[20:], np.load(image)[20:])
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "48 x 32 pixels, 4 channels, uint16 values from 0 to 4095" in card
    run("doctor", runs / "whole", "--samples=true", "--num_images=8", "--num_inference_steps=4")
    capsys.readouterr()


def test_what_cannot_work_is_one_line(source, run, tmp_path, capsys):
    data = [f"--data.source={source}", *DATA, "--max_train_steps=1", f"--output_dir={tmp_path / 'run'}"]
    cases = [
        (
            "train",
            [*data, *NETWORK, "--data.image_size=[49,32]"],
            "halves images 1 times, give a multiple of 2, such as [48, 32]",
        ),
        (
            "train_gan",
            [*data[:2], "--data.batch_size=4", "--max_train_steps=1", data[-1]],
            "square images of 8, 16, 28, 32, 64",
        ),
    ]
    for name, args, words in cases:
        with pytest.raises(SystemExit) as stopped:
            run(name, *args)
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and error.count("\n") == 1 and words in error, error
