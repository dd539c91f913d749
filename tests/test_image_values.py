"""Models of images that are not square, have other than 1 or 3 channels, or more than 8 bits, from the pipeline to files."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image

from hf_ddpm.editing_pipeline import CFGDDPMEditingPipeline
from hf_ddpm.image_shape import PIL_IMAGES
from hf_ddpm.pipeline import PIL_IMAGES as pipeline_images
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sample_folder import choose_format, save_images
from hf_ddpm.sampling import generate, image_shape_of, load_pipeline

BANDS = {"sample_size": (8, 4), "channels": 4, "values": {"pixel_type": "uint16", "value_range": (100, 4095)}}
DEEP_GRAY = {"channels": 1, "values": {"pixel_type": "uint16", "value_range": (0, 65535)}}
FLOATS = {"sample_size": (4, 8), "channels": 2, "values": {"pixel_type": "float32", "value_range": (-1.5, 2.25)}}
RGBA = {"channels": 4}
STEPS = {"num_inference_steps": 2}


def sample(pipeline, **options):
    return pipeline(class_labels=[0, 2], generator=torch.Generator().manual_seed(0), **STEPS, **options).images


@pytest.mark.parametrize("kind", [BANDS, FLOATS])
def test_values_are_those_of_the_data(tiny_pipeline, kind):
    pipeline = tiny_pipeline(**kind)
    values, unit, arrays = (sample(pipeline, **options) for options in ({}, {"output_type": "np"}, {"output_type": "pt"}))
    low, high = pipeline.value_range
    expected = low + unit.astype(np.float64) * (high - low)
    assert values.dtype == pipeline.pixel_type and values.shape == (2, *kind["sample_size"], kind["channels"])
    np.testing.assert_allclose(values, expected, atol=0.5 if values.dtype == np.uint16 else 1e-6)
    assert (values.min(), values.max()) == (low, high)  # an untrained network saturates
    np.testing.assert_array_equal(unit, arrays.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(
    "kind, mode", [({"channels": 1}, "L"), ({"channels": 3}, "RGB"), (RGBA, "RGBA"), (DEEP_GRAY, "I;16")]
)
def test_pil_images_hold_the_values(tiny_pipeline, kind, mode):
    pipeline = tiny_pipeline(**kind)
    images, values = sample(pipeline), sample(pipeline, output_type="values")
    assert [image.mode for image in images] == [mode] * 2
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in images]), values.squeeze())


def test_pil_images_of_other_kinds_are_refused_with_what_works(tiny_pipeline):
    with pytest.raises(ValueError, match="4 channels of uint16, which PIL cannot hold, give one of .*'values'"):
        sample(tiny_pipeline(**BANDS), output_type="pil")


@pytest.mark.parametrize("kind", [BANDS, FLOATS])
def test_a_saved_model_keeps_shape_and_values(tiny_pipeline, tmp_path, kind):
    pipeline = tiny_pipeline(**kind)
    pipeline.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "unet" / "config.json").read_text())["sample_size"] == [*kind["sample_size"]]
    ours, generic = CFGDDPMPipeline.from_pretrained, DiffusionPipeline.from_pretrained
    for loaded in (ours(tmp_path), generic(tmp_path, trust_remote_code=True)):
        assert (loaded.pixel_type, loaded.value_range) == (pipeline.pixel_type, pipeline.value_range)
        np.testing.assert_array_equal(sample(loaded), sample(pipeline))
    assert image_shape_of(load_pipeline(str(tmp_path))) == (kind["channels"], *kind["sample_size"])
    editing = CFGDDPMEditingPipeline.from_pipe(pipeline)
    assert editing.value_range == pipeline.value_range
    editing.save_pretrained(tmp_path / "again")
    index, again = ((folder / "model_index.json").read_text() for folder in (tmp_path, tmp_path / "again"))
    assert index == again


def test_a_model_of_8_bits_says_nothing_of_values(tiny_pipeline, tmp_path):
    tiny_pipeline(channels=3).save_pretrained(tmp_path)
    assert not {"pixel_type", "value_range"} & set(json.loads((tmp_path / "model_index.json").read_text()))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pixel_type": "int4"}, "pixel_type is 'int4'"),
        ({"value_range": None}, "value_range is None: give .low, high."),
        ({"value_range": [0, 1]}, "value_range is .*low, high"),
        ({"value_range": {"low": 9.0, "high": 1.0}}, "give the lower value first"),
        ({"value_range": {"low": 0.0, "high": 1e9}}, r"value_range\[1\] is 1000000000.0: give a number from 0 to 65535"),
        ({"value_range": {"low": "0", "high": 1.0}}, r"value_range\[0\] is '0'"),
    ],
)
def test_a_model_index_with_impossible_values_is_refused(tiny_pipeline, tmp_path, change, message):
    tiny_pipeline(**BANDS).save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    if change.get("value_range") == [0, 1]:
        load_pipeline(str(tmp_path))  # in the form of the Python argument
        return
    with pytest.raises(ValueError, match=f"model_index.json: .*{message}"):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize("kind", [BANDS, FLOATS, DEEP_GRAY, {"channels": 1}])
def test_inpainting_keeps_known_values_exactly(tiny_pipeline, kind):
    pipeline = CFGDDPMEditingPipeline.from_pipe(tiny_pipeline(DDIMScheduler(), **kind))
    pipeline.set_progress_bar_config(disable=True)
    channels, *size = image_shape_of(pipeline)
    low, high = pipeline.value_range
    random = np.random.default_rng(0).uniform(low, high, (2, *size, channels))
    values = (random if pipeline.pixel_type == "float32" else random.round()).astype(pipeline.pixel_type)
    given = ((values - low) / (high - low)).astype(np.float32) if pipeline.pixel_type == "float32" else values
    mask = np.zeros(size, dtype=bool)
    mask[:2] = True
    edited = pipeline.inpaint(given, mask, jump_n_sample=1, output_type="values", num_inference_steps=2).images
    known = ~np.broadcast_to(mask[None, :, :, None], values.shape)
    np.testing.assert_allclose(edited[known], values[known], rtol=0, atol=1e-6 if values.dtype == np.float32 else 0)
    assert not np.array_equal(edited, values)


def test_integers_of_another_type_are_not_edited(tiny_pipeline):
    pipeline = CFGDDPMEditingPipeline.from_pipe(tiny_pipeline(**BANDS))
    for images, message in (
        (np.zeros((1, 8, 4, 4), np.uint8), "images.dtype is 'uint8': give uint16, or floats in"),
        (np.zeros((1, 8, 4, 4), np.uint16), "the range of images is .*: the model's values are 100 to 4095"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline.image_to_image(images, **STEPS)


@pytest.mark.parametrize("kind, suffix", [(BANDS, "npy"), (FLOATS, "npy"), (DEEP_GRAY, "png"), ({"channels": 3}, "png")])
def test_files_of_samples_hold_their_values(tiny_pipeline, tmp_path, kind, suffix):
    pipeline = tiny_pipeline(**kind)
    assert choose_format(pipeline, None) == suffix
    batches = generate(pipeline, class_labels=[0, 1], num_inference_steps=2)
    (batch,) = save_images(batches, tmp_path, suffix=f".{suffix}")
    for path, image in zip(sorted(tmp_path.iterdir()), batch.images, strict=True):
        values = np.load(path) if suffix == "npy" else np.asarray(Image.open(path)).reshape(image.shape)
        np.testing.assert_array_equal(values, image)
        assert values.dtype == image.dtype == pipeline.pixel_type


def test_png_is_refused_where_it_would_lose_values(tiny_pipeline):
    with pytest.raises(ValueError, match="format is 'png': the images have 4 channels of uint16, which PNG cannot hold"):
        choose_format(tiny_pipeline(**BANDS), "png")


def test_what_pil_holds_is_the_same_for_a_model_and_for_files():
    assert pipeline_images == PIL_IMAGES
