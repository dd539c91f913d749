"""DCGANPipeline on generators of a few thousand parameters: labels, seeds, saving and loading, refusals."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import dynamic_modules_utils
from PIL import Image
from safetensors.torch import load_file, save_file

import hf_ddpm.dcgan_pipeline
from hf_ddpm.dcgan_pipeline import STAGES, DCGANGenerator, DCGANPipeline
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sampling import generate, image_shape_of, load_pipeline, network_of, resolve_labels

NAMES = {number: f"class {number}" for number in range(11)} | {2: "frog"}


def tiny_pipeline(*, num_classes: int | None = 11, sample_size: int = 8, channels: int = 1) -> DCGANPipeline:
    """Weights far from those of a fresh network, and statistics of the batch norm far from 0 and 1."""
    torch.manual_seed(0)
    network = DCGANGenerator(sample_size, channels, latent_dim=6, width=4, num_classes=num_classes, label_channels=3)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            tensor.normal_(1 if "label" in name else 0, 0.5)
        network.train()
        network(torch.randn(64, 6), None if num_classes is None else torch.arange(64) % num_classes)
    return DCGANPipeline(network, NAMES if num_classes else None)


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def drawn(pipeline: DCGANPipeline, labels, **options) -> np.ndarray:
    return pipeline(labels, output_type="np", **options).images


# Images


@pytest.mark.parametrize("sample_size", STAGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_is_generated(sample_size, channels):
    pipeline = tiny_pipeline(num_classes=None, sample_size=sample_size, channels=channels)
    images = pipeline(num_images_per_prompt=2, output_type="pt").images
    assert images.shape == (2, channels, sample_size, sample_size)
    assert images.dtype == torch.float32 and 0 <= images.min() < images.max() <= 1
    assert image_shape_of(pipeline) == (channels, sample_size, sample_size)


def test_output_types_show_the_same_image():
    pipeline = tiny_pipeline(channels=3)
    pil, np_, pt = (pipeline(1, generator=generators(1), output_type=kind).images for kind in ("pil", "np", "pt"))
    np.testing.assert_array_equal(np_, pt.permute(0, 2, 3, 1))
    assert abs(np.asarray(pil[0]) / 255 - np_[0]).max() <= 1 / 255
    (images,) = pipeline(1, generator=generators(1), output_type="np", return_dict=False)
    np.testing.assert_array_equal(images, np_)


def test_an_image_depends_on_its_label_and_its_seed():
    pipeline = tiny_pipeline()
    images = drawn(pipeline, [0, 0, 2], generator=[torch.Generator().manual_seed(seed) for seed in (0, 1, 0)])
    assert abs(images[0] - images[1]).max() > 0.01 and abs(images[0] - images[2]).max() > 0.01
    for labels in ("frog", ["frog"], 2, torch.tensor([2])):
        np.testing.assert_allclose(drawn(pipeline, labels, generator=generators(1)), images[2:], rtol=0, atol=1e-6)
    twice = drawn(pipeline, [0, 2], num_images_per_prompt=2, generator=generators(4))
    one_by_one = [drawn(pipeline, label, generator=[rng]) for label, rng in zip([0, 0, 2, 2], generators(4), strict=True)]
    np.testing.assert_allclose(twice, np.concatenate(one_by_one), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_classes", [None, 11])
def test_an_image_does_not_depend_on_its_batch(num_classes):
    pipeline = tiny_pipeline(num_classes=num_classes)
    labels = [None] * 7 if num_classes is None else [0, 1, 2, 3, 4, 5, 6]
    whole = np.concatenate([batch.images for batch in generate(pipeline, class_labels=labels, seed=5)])
    for batch_size in (1, 3):
        batches = list(generate(pipeline, class_labels=labels, seed=5, batch_size=batch_size))
        assert [len(batch.images) for batch in batches][:2] == [batch_size] * 2
        assert abs(np.concatenate([batch.images for batch in batches]).astype(int) - whole).max() <= 1
    assert len(np.unique(whole)) > 20
    assert [seed for batch in batches for seed in batch.seeds] == list(range(5, 12))


def test_half_precision_means_the_same_images():
    pipeline = tiny_pipeline()
    exact = drawn(pipeline, [0, 5], generator=generators(2))
    half = drawn(pipeline.to(dtype=torch.bfloat16), [0, 5], generator=generators(2))
    assert half.dtype == np.float32 and abs(half - exact).mean() < 0.05


# Saving and loading


def test_saved_and_loaded_is_the_same(tmp_path):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == [
        "generator/config.json", "generator/dcgan.py", "generator/diffusion_pytorch_model.safetensors",
        "model_index.json", "pipeline.py",
    ]  # fmt: skip
    for name in ("pipeline.py", "generator/dcgan.py"):
        assert (tmp_path / name).read_bytes() == Path(hf_ddpm.dcgan_pipeline.__file__).read_bytes()
    loaded = load_pipeline(str(tmp_path), device="cpu")
    assert type(loaded) is DCGANPipeline and not network_of(loaded).training
    assert list(loaded.id2label.items()) == list(NAMES.items()), "in the order of the ids, not of their text"
    expected = drawn(pipeline, [2, 10], generator=generators(2))
    np.testing.assert_array_equal(drawn(loaded, [2, 10], generator=generators(2)), expected)
    copied = DCGANPipeline.from_pipe(loaded)
    np.testing.assert_array_equal(drawn(copied, ["frog", 10], generator=generators(2)), expected)
    assert loaded.components == {"generator": loaded.generator} and copied.id2label == NAMES
    assert load_pipeline(str(tmp_path), device="cpu", dtype=torch.bfloat16).generator.dtype == torch.bfloat16


def test_the_code_in_a_folder_is_not_run(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    for name in ("pipeline.py", "generator/dcgan.py"):
        (tmp_path / name).write_text("raise SystemExit('this was run')")
    assert load_pipeline(str(tmp_path), device="cpu").num_classes == 11


def test_diffusers_loads_a_saved_model_with_the_code_beside_it(tmp_path, monkeypatch):
    """Of the files in the folder alone, which need no package of ours, as tests/test_floors.py sees to."""
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "diffusers_modules.local.pipeline"  # of the code of every local folder, which others have loaded or will load
    monkeypatch.setitem(sys.modules, name, None)  # so that what stands there now comes back
    del sys.modules[name]
    pipeline, folder, resaved = tiny_pipeline(), tmp_path / "model", tmp_path / "resaved"
    pipeline.save_pretrained(folder)
    foreign = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    for part in (foreign, foreign.generator):
        assert type(part).__module__.startswith("diffusers_modules.")
    expected = drawn(pipeline, ["frog", 0], generator=generators(2))
    np.testing.assert_array_equal(drawn(foreign, ["frog", 0], generator=generators(2)), expected)
    foreign.save_pretrained(resaved)
    for path in folder.rglob("*.*"):
        if path.suffix != ".json":  # these say where they were loaded from
            assert (resaved / path.relative_to(folder)).read_bytes() == path.read_bytes()
    again = DCGANPipeline.from_pretrained(resaved)
    np.testing.assert_array_equal(drawn(again, ["frog", 0], generator=generators(2)), expected)


def test_only_safetensors():
    pipeline = tiny_pipeline()
    with pytest.raises(ValueError, match="safe_serialization is False"):
        pipeline.save_pretrained("unused", safe_serialization=False)
    with pytest.raises(ValueError, match="use_safetensors is False"):
        DCGANPipeline.from_pretrained("unused", use_safetensors=False)
    assert not Path("unused").exists()


def edit_config(folder: Path, **values) -> None:
    path = folder / "generator" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 10**5}, "width is 100000: give 1 to 512"),
        ({"latent_dim": 10**9}, "latent_dim is 1000000000"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"label_channels": True}, "label_channels is True"),
        ({"sample_size": 128}, "sample_size is 128: give one of 8, 16, 28, 32, 64 pixels"),
        ({"width": 5}, r"generator/diffusion_pytorch_model.safetensors: the shape of layers"),
        ({"num_classes": 12}, "safetensors: the shape of label_embedding.weight"),
    ],
)
def test_a_config_that_the_weights_do_not_have_is_refused_in_one_line(tmp_path, values, message):
    tiny_pipeline().save_pretrained(tmp_path)
    edit_config(tmp_path, **values)
    with pytest.raises(ValueError, match=message) as refused:
        load_pipeline(str(tmp_path), device="cpu")
    assert "\n" not in str(refused.value)


def test_weights_that_are_not_all_there_are_refused(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    file = tmp_path / "generator" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["layers.0.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ValueError, match="layers.0.weight"):
        load_pipeline(str(tmp_path), device="cpu")


def test_the_index_says_which_pipeline_is_loaded(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "DCGANPipeline"] and index["generator"] == ["dcgan", "DCGANGenerator"]
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": "DCGANPipeline"}))  # an older model
    assert type(load_pipeline(str(tmp_path), device="cpu")) is DCGANPipeline
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": CFGDDPMPipeline.__name__}))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_pipeline(str(tmp_path), device="cpu")


def test_a_variant_is_saved_and_loaded_by_its_name(tmp_path):
    pipeline = tiny_pipeline()
    expected = drawn(pipeline, [2, 10], generator=generators(2))
    DCGANPipeline.from_pipe(pipeline, dtype=torch.float16).save_pretrained(tmp_path, variant="fp16")
    loaded = load_pipeline(str(tmp_path), device="cpu", variant="fp16")
    np.testing.assert_allclose(drawn(loaded, [2, 10], generator=generators(2)), expected, rtol=0, atol=0.02)
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_pipeline(str(tmp_path), device="cpu")


def test_batch_size_is_the_number_of_images_of_an_unconditional_model():
    pipeline = tiny_pipeline(num_classes=None)
    images = drawn(pipeline, None, num_images_per_prompt=6, generator=generators(6))
    for counts in ({"batch_size": 6}, {"batch_size": 3, "num_images_per_prompt": 2}):
        np.testing.assert_array_equal(drawn(pipeline, None, **counts, generator=generators(6)), images)


# Refusals


@pytest.mark.parametrize(
    ("num_classes", "arguments", "message"),
    [
        (11, {}, "class_labels is None: the model has no null label, give ids from 0 to 10"),
        (11, {"class_labels": 11}, "class_labels is 11"),
        (11, {"class_labels": -1}, "class_labels is -1"),
        (11, {"class_labels": True}, "class_labels is True"),
        (11, {"class_labels": []}, r"class_labels is \[\]"),
        (11, {"class_labels": "frgo"}, "class_labels is 'frgo': no such name, nearest: frog"),
        (11, {"class_labels": 1, "num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
        (11, {"class_labels": 1, "output_type": "latent"}, "output_type is 'latent'"),
        (11, {"class_labels": [1, 2], "generator": generators(3)}, r"len\(generator\) is 3: give 2"),
        (11, {"class_labels": [1, 2], "batch_size": 3}, "batch_size is 3: give 2, the number of labels"),
        (None, {"batch_size": 0}, "batch_size is 0: give an integer of at least 1"),
        (None, {"generator": 7}, r"generator is 7: give torch.Generator\(\).manual_seed\(7\)"),
        (None, {"generator": [7]}, r"generator\[0\] is 7"),
        (None, {"class_labels": 1}, "class_labels is 1: the model is unconditional"),
    ],
)
def test_what_cannot_work_is_refused(num_classes, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline(num_classes=num_classes)(**arguments)


@pytest.mark.parametrize("names", [{11: "eleven"}, {-1: "none"}])
def test_names_of_other_classes_are_refused(names):
    with pytest.raises(ValueError, match="id2label is "):
        DCGANPipeline(tiny_pipeline().generator, names)
    with pytest.raises(ValueError, match="id2label is "):
        DCGANPipeline(tiny_pipeline(num_classes=None).generator, {0: "one"})


def test_a_name_that_two_classes_share_is_refused():
    with pytest.raises(ValueError, match=r"the classes \[0, 1\] share this name, give an id"):
        DCGANPipeline(tiny_pipeline().generator, {0: "same", 1: "same"})("same")


def test_an_accent_in_a_name_may_be_encoded_in_two_ways():
    pipeline = DCGANPipeline(tiny_pipeline().generator, {0: "e\u0301", 1: "e"})
    assert pipeline.get_label_ids(["\u00e9", "e"]) == [0, 1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_inference_steps", 50),
        ("guidance_scale", 1.0),
        ("guidance_interval", (0.0, 1.0)),
        ("guidance_rescale", 0.0),
        ("eta", 0.0),
    ],
)
def test_options_of_a_diffusion_model_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*: the model is a GAN"):
        generate(tiny_pipeline(), class_labels=[0], **{name: value})


def test_a_scheduler_is_refused(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="scheduler is 'ddim': the model is a GAN"):
        load_pipeline(str(tmp_path), scheduler="ddim", device="cpu")


def test_labels_of_a_command_line():
    assert resolve_labels(tiny_pipeline(), ["frog", 3], 2, None) == [2, 2, 3, 3]
    assert resolve_labels(tiny_pipeline(num_classes=None), None, None, 2) == [None, None]


def test_the_file_has_one_pipeline():
    classes = [value for value in vars(hf_ddpm.dcgan_pipeline).values() if isinstance(value, type)]
    ours = [value for value in classes if issubclass(value, DiffusionPipeline) and value is not DiffusionPipeline]
    assert ours == [DCGANPipeline], "diffusers takes the only one that it finds"


# The program


def test_the_same_program_generates_samples(load_script, tmp_path, capsys):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    options, images = ["--model", str(tmp_path / "model"), "--device=cpu", "--output_dir"], tmp_path / "images"
    load_script("sample").main([*options, str(images), "--per_class=1"])
    assert len(list(images.glob("000*_label-*.png"))) == 11
    with Image.open(tmp_path / "images-grid.png") as grid:
        assert grid.height > 11 * 8
    for option in ("--num_inference_steps=50", "--guidance_scale=1", "--eta=0", "--scheduler=ddim"):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            load_script("sample").main([*options, str(tmp_path / "none"), "--per_class=1", option])
        (line,) = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2 and "the model is a GAN" in line
        assert not (tmp_path / "none").exists()
