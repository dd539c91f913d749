"""Loading a model, one image = one seed, and the label rules of the command line."""

import json
import sys
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler

from hf_ddpm import sampling
from hf_ddpm.dcgan_pipeline import DCGANGenerator, DCGANPipeline
from hf_ddpm.diffusion.randomness import counter_noise
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.runtime.probe import Timings
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.sampling import generate, load_pipeline, resolve_labels, set_dtype
from hf_ddpm.schedulers import build_scheduler

NAMES = {0: "2", 1: "dog", 2: "great dane"}


@pytest.fixture(scope="module")
def tiny_pipeline(tiny_pipeline):
    return partial(tiny_pipeline, names=NAMES.values())


def all_images(pipeline, class_labels, **options) -> np.ndarray:
    options = {"num_inference_steps": 4, "guidance_scale": 2.0, **options}
    return np.concatenate([batch.images for batch in generate(pipeline, class_labels=class_labels, **options)])


# Loading


def test_load_pipeline(tiny_pipeline, tmp_path):
    tiny_pipeline(DDPMScheduler(prediction_type="v_prediction")).save_pretrained(tmp_path)
    loaded = load_pipeline(str(tmp_path), device="cpu")
    assert isinstance(loaded.scheduler, DDPMScheduler)
    assert loaded.scheduler.config.timestep_spacing == "trailing"
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    assert loaded.id2label == NAMES
    switched = load_pipeline(str(tmp_path), scheduler="ddim", device="cpu", dtype=torch.bfloat16)
    assert isinstance(switched.scheduler, DDIMScheduler)
    assert switched.unet.dtype == torch.bfloat16


def test_a_saved_scheduler_with_trailing_timesteps_is_left_alone(tiny_pipeline, tmp_path):
    pipeline = tiny_pipeline()
    scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=True, beta_end=0.01)
    pipeline = CFGDDPMPipeline.from_pipe(pipeline, scheduler=scheduler)
    pipeline.save_pretrained(tmp_path)
    config = load_pipeline(str(tmp_path), device="cpu").scheduler.config
    assert (config.clip_sample, config.beta_end, config.timestep_spacing) == (True, 0.01, "trailing")


def test_load_pipeline_reads_an_unconditional_ddpm_pipeline_of_diffusers(tiny_pipeline, tmp_path):
    pipeline = tiny_pipeline(names=None)
    DDPMPipeline(pipeline.unet, pipeline.scheduler).save_pretrained(tmp_path)
    assert not load_pipeline(str(tmp_path), device="cpu").is_conditional


def test_missing_folders_are_refused(tmp_path):
    for model in (str(tmp_path / "none"), "./none", "none", "runs/none/pipeline", "none/"):
        with pytest.raises(ValueError, match="no such folder exists"):
            load_pipeline(model)
    with pytest.raises(ValueError, match=r"the folder has no model_index\.json"):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize("inner", ["pipeline", "checkpoints/step-00000200"])
def test_a_run_directory_is_refused_with_the_folder_to_give(tmp_path, inner):
    (tmp_path / "checkpoints" / "step-00000100").mkdir(parents=True)
    (tmp_path / inner).mkdir(parents=True)
    (tmp_path / inner / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match=f"this is a run directory, give {tmp_path}/{inner}"):
        load_pipeline(str(tmp_path))


def test_broken_models_are_refused_in_one_line(tiny_pipeline, tmp_path):
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"

    def refusal() -> str:
        with pytest.raises(ValueError, match="the folder cannot be loaded") as caught:
            load_pipeline(str(tmp_path))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    tiny_pipeline().save_pretrained(tmp_path)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert weights.name in refusal()
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    assert weights.name in refusal()
    (tmp_path / "model_index.json").write_text("[]")
    refusal()


def test_a_model_cannot_name_a_class_of_another_library(tiny_pipeline, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "unet": ["os", "system"]}))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize("device", ["tpu9", "meta"])
def test_devices_that_torch_cannot_use_are_refused(device, tmp_path):
    with pytest.raises(ValueError, match=f"device is '{device}': torch cannot use it here"):
        load_pipeline(str(tmp_path), device=device)


# Generating


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmsolver++"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_do_not_depend_on_the_batch_size(tiny_pipeline, name, channels):
    pipeline = tiny_pipeline(channels=channels)
    pipeline.scheduler = build_scheduler(name, pipeline.scheduler.config)
    labels = [0, 1, 2, 0, 1, 2, 0, 1]
    one, three, eight = (all_images(pipeline, labels, seed=7, batch_size=size).astype(int) for size in (1, 3, 8))
    assert one.shape == (8, 8, 8, channels)
    assert abs(one - eight).max() <= 1
    assert abs(three - eight).max() <= 1
    assert abs(eight[0] - eight[3]).max() > 10


@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler_ancestral"])
def test_noise_of_a_counter_belongs_to_a_seed_and_a_step(tiny_pipeline, name):
    pipeline = tiny_pipeline()
    pipeline.scheduler = build_scheduler(name, pipeline.scheduler.config)
    options = {"seed": 7, "rng": "counter"}
    one, three = (all_images(pipeline, [0, 1, 2], batch_size=size, **options).astype(int) for size in (1, 3))
    assert abs(one - three).max() <= 1
    latents = torch.stack([counter_noise(seed, (1, 8, 8)) for seed in (7, 8, 9)])
    generators = [torch.Generator().manual_seed(0) for _ in range(3)]
    arguments = {"guidance_scale": 2.0, "num_inference_steps": 4, "output_type": "np"}
    other = pipeline([0, 1, 2], latents=latents, generator=generators, **arguments).images
    is_same = abs(three - 255 * other).max() <= 1
    assert is_same == (name == "ddim")  # the others draw noise in their steps, from counters too


def test_a_gan_takes_no_noise_of_counters():
    gan = DCGANPipeline(DCGANGenerator(8, 1, latent_dim=6, width=4))
    with pytest.raises(ValueError, match="rng is 'counter': the model is a GAN, give torch"):
        generate(gan, class_labels=[None], rng="counter")


def test_a_slice_of_the_list_is_the_work_of_one_process(tiny_pipeline):
    pipeline = tiny_pipeline()
    labels = [0, 1, 2, 0, 1, 2, 0]
    whole = all_images(pipeline, labels, seed=3)
    for rank in range(2):
        part = all_images(pipeline, labels[rank::2], seeds=list(range(3, 10))[rank::2], batch_size=2)
        assert abs(part.astype(int) - whole[rank::2]).max() <= 1


def test_seeds_that_differ_beyond_32_bits_are_other_images(tiny_pipeline):
    pipeline = tiny_pipeline()
    small, large = (all_images(pipeline, [1], seed=seed) for seed in (7, 7 + 2**32))
    assert abs(small.astype(int) - large).max() > 10
    np.testing.assert_array_equal(all_images(pipeline, [1, 1], seeds=[7, 7 + 2**32])[1:], large)


def test_no_labels_make_no_image(tiny_pipeline):
    assert list(generate(tiny_pipeline(), class_labels=[], num_inference_steps=2)) == []


def test_batches_say_what_they_were_made_from(tiny_pipeline):
    batches = list(generate(tiny_pipeline(), class_labels=[2, 1, 0], seed=5, batch_size=2, num_inference_steps=2))
    assert [batch.class_labels for batch in batches] == [[2, 1], [0]]
    assert [batch.seeds for batch in batches] == [[5, 6], [7]]
    assert all(batch.images.dtype == np.uint8 for batch in batches)


def test_images_are_rounded_to_uint8(tiny_pipeline):
    pipeline = tiny_pipeline()
    rng = torch.Generator().manual_seed(4)
    expected = pipeline(1, num_inference_steps=4, guidance_scale=2.0, generator=rng, output_type="np").images
    np.testing.assert_array_equal(all_images(pipeline, [1], seed=4), (expected * 255).round())


def test_unconditional_and_null_label(tiny_pipeline):
    options = {"num_inference_steps": 2, "guidance_scale": 1.0}
    assert all_images(tiny_pipeline(names=None), [None] * 3, batch_size=2, **options).shape == (
        3,
        8,
        8,
        1,
    )
    null = all_images(tiny_pipeline(), [None] * 2, **options)
    assert abs(null.astype(int) - all_images(tiny_pipeline(), [1, 1], **options)).max() > 0
    np.testing.assert_array_equal(null, all_images(tiny_pipeline(), [1, 1], **{**options, "guidance_scale": 0.0}))


def test_the_step_bar_comes_back(tiny_pipeline, capsys):
    pipeline = tiny_pipeline()
    pipeline.set_progress_bar_config(disable=False)
    all_images(pipeline, [0, 1])
    assert capsys.readouterr().err == ""
    pipeline(0, num_inference_steps=2)
    assert "2/2" in capsys.readouterr().err


def test_progress_counts_images(tiny_pipeline, monkeypatch, capsys):
    monkeypatch.setattr(Progress, "close", lambda bar: print(bar, file=sys.stderr))
    all_images(tiny_pipeline(), [0, 1, 2], batch_size=2, progress=True)
    assert "samples: 3 of 3 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_labels": [0, None]}, "give None for all images or for none"),
        ({"class_labels": [0, 9]}, "class_labels is 9"),
        ({"seeds": [1]}, r"len\(seeds\) is 1: give 2"),
        ({"seed": -1}, "seed is -1"),
        ({"seeds": [0, 0.5]}, "seed is 0.5: give an integer"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_inference_steps": 5000}, "num_inference_steps is 5000"),
        ({"guidance_interval": (1, 0)}, "guidance_interval"),
        ({"guidance_rescale": 2}, "guidance_rescale is 2"),
        ({"eta": 0.5}, "eta is 0.5: DDPMScheduler takes none"),
    ],
)
def test_generate_refuses_before_the_first_batch(tiny_pipeline, options, message):
    with pytest.raises(ValueError, match=message):
        generate(tiny_pipeline(), **{"class_labels": [0, 1], **options})


def test_a_diverged_model_is_an_error(tiny_pipeline):
    pipeline = tiny_pipeline()
    with torch.no_grad():
        pipeline.unet.conv_out.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="seeds 2 to 3 are not finite"):
        all_images(pipeline, [0, 1], seed=2)


# Labels of a command line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"class_labels": ["dog", "0"]}, [1, 0]),
        ({"class_labels": ["2", 2, "great dane"]}, [0, 0, 2]),
        ({"class_labels": ["1", "0"], "per_class": 2}, [1, 1, 0, 0]),
        ({"per_class": 2}, [0, 0, 1, 1, 2, 2]),
        ({"class_labels": ["1", "0"], "num_images": 5}, [1, 0, 1, 0, 1]),
        ({"num_images": 4}, [0, 1, 2, 0]),
    ],
)
def test_labels_of_a_conditional_model(tiny_pipeline, options, expected):
    options = {"class_labels": None, "per_class": None, "num_images": None, **options}
    assert resolve_labels(tiny_pipeline(), **options) == expected


def test_labels_of_an_unconditional_model(tiny_pipeline):
    assert resolve_labels(tiny_pipeline(names=None), None, None, 3) == [None] * 3


@pytest.mark.parametrize(
    ("conditional", "class_labels", "per_class", "num_images", "message"),
    [
        (True, None, None, None, "num_images is None: give `class_labels`, `per_class` or `num_images`"),
        (True, None, 2, 6, "num_images is 6: leave it out, `per_class` is given too"),
        (True, None, 0, None, "per_class is 0: give at least 1"),
        (True, None, None, -3, "num_images is -3: give at least 1"),
        (True, [], None, None, r"class_labels is \[\]"),
        (True, ["dgo"], None, None, "class_labels is 'dgo': no such name, nearest: dog"),
        (True, ["7"], None, None, "class_labels is 7: .* ids from 0 to 2"),
        (True, ["-1"], None, None, "class_labels is -1: .* ids from 0 to 2"),
        (True, ["1.0"], None, None, "class_labels is '1.0'"),
        (False, ["1"], None, 3, r"class_labels is \['1'\]: the model is unconditional"),
        (False, None, 2, None, "per_class is 2: the model is unconditional"),
        (False, None, None, None, "num_images is None"),
    ],
)
def test_impossible_labels_are_refused(tiny_pipeline, conditional, class_labels, per_class, num_images, message):
    with pytest.raises(ValueError, match=message):
        resolve_labels(tiny_pipeline() if conditional else tiny_pipeline(names=None), class_labels, per_class, num_images)


def test_the_type_of_the_network_is_chosen(tiny_pipeline, monkeypatch):
    """The images stay those of the seed, but for rounding."""
    processes = init_distributed()
    pipeline = tiny_pipeline()
    assert set_dtype(pipeline, "float32", processes) == "float32"
    wide = next(generate(pipeline, class_labels=[0, 1], num_inference_steps=2)).images.astype(int)
    assert set_dtype(pipeline, "auto", processes) in ("float32", "bfloat16"), "really timed"
    assert set_dtype(pipeline, "bfloat16", processes) == "bfloat16" and pipeline.unet.dtype == torch.bfloat16
    narrow = next(generate(pipeline, class_labels=[0, 1], num_inference_steps=2)).images.astype(int)
    assert abs(wide - narrow).mean() < 5
    for times, chosen in (({"float32": 1.0, "bfloat16": 0.5}, "bfloat16"), ({"float32": 1.0, "bfloat16": 0.95}, "float32")):
        timings = Timings({name: [value] for name, value in times.items()})
        monkeypatch.setattr(sampling, "time_in_turn", lambda calls, seconds, timings=timings: timings)
        assert set_dtype(tiny_pipeline(), "auto", processes) == chosen
