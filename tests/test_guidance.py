"""What CFGDDPMPipeline guides away from: the null label in three ways, or a worse network."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from hf_ddpm.evaluation.options import SamplingConfig
from hf_ddpm.evaluation.protocol import generation_options
from hf_ddpm.experiments.options import SweepConfig, SweepGrid
from hf_ddpm.experiments.sweep import count_nfe, point_config
from hf_ddpm.pipeline import CFGDDPMPipeline, fitted, without_part_along
from hf_ddpm.sampling import generate, load_pipeline
from hf_ddpm.schedulers import build_scheduler


@pytest.fixture
def guided(tiny_pipeline, tiny_unet):
    """Build a pipeline with a guide; the options are those of `tiny_pipeline`."""

    def build(**options) -> CFGDDPMPipeline:
        scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
        pipeline = tiny_pipeline(scheduler, **options)
        pipeline.set_guide(tiny_unet(pipeline.unet.config.num_class_embeds, seed=1))
        return pipeline

    return build


def calls_of(network) -> list[int]:
    """Record the batch size of every call of a network from now on."""
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    return sizes


def sample(pipeline, labels=(0, 1, 2), steps: int = 3, **options) -> torch.Tensor:
    """Latents, (3, 1, 8, 8), of three seeds."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    what = {"num_images_per_prompt": 3} if labels is None else {"class_labels": list(labels)}
    return pipeline(**what, num_inference_steps=steps, generator=generators, output_type="latent", **options).images


@pytest.mark.parametrize("names", [("cat", "dog", "frog"), None], ids=["conditional", "unconditional"])
def test_autoguidance_is_linear_between_the_two_networks(guided, names):
    pipeline = guided(names=names)
    labels = None if names is None else (0, 1, 2)
    strong, weak = calls_of(pipeline.unet), calls_of(pipeline.guide)
    at = {scale: sample(pipeline, labels, steps=1, guidance_scale=scale).double() for scale in (0.0, 1.0, 2.5)}
    torch.testing.assert_close(at[2.5], at[0.0] + 2.5 * (at[1.0] - at[0.0]), rtol=1e-4, atol=1e-2)
    assert strong == weak == [3, 3]  # neither is called where it has no part
    pipeline.unet = pipeline.guide
    torch.testing.assert_close(sample(pipeline, labels, steps=1).double(), at[0.0])


def test_autoguidance_needs_no_null_label_and_has_an_interval(guided):
    pipeline = guided(null=False)
    weak = calls_of(pipeline.guide)
    sample(pipeline, steps=4, guidance_scale=2.0, guidance_interval=(0.4, 0.8))  # timesteps 999, 749, 499, 249
    assert weak == [3, 3]
    pipeline.set_guide(None)
    with pytest.raises(ValueError, match="has no null label to guide away from"):
        sample(pipeline, guidance_scale=2.0)


def test_a_pipeline_with_a_guide_can_still_guide_away_from_the_null_label(guided, tiny_pipeline):
    pipeline = guided()
    plain = tiny_pipeline(pipeline.scheduler)
    assert torch.equal(sample(pipeline, guidance_scale=2.0, guidance="cfg"), sample(plain, guidance_scale=2.0))
    assert not torch.equal(sample(pipeline, guidance_scale=2.0), sample(plain, guidance_scale=2.0))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_the_predicted_image_is_that_of_the_scheduler(tiny_pipeline, prediction_type, name):
    trained = DDIMScheduler(prediction_type=prediction_type, clip_sample=False)
    pipeline = tiny_pipeline(build_scheduler(name, trained.config))
    pipeline.prepare_timesteps(7)
    scheduler, t = pipeline.scheduler, pipeline.scheduler.timesteps[3]
    if name == "euler":
        scheduler.set_begin_index(3)
    latents, output = torch.randn(2, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sample, (of_sample, of_output) = scheduler.scale_model_input(latents, t), pipeline._clean_image_factors(t)
    expected = scheduler.step(output, t, latents).pred_original_sample
    torch.testing.assert_close(of_sample * sample + of_output * output, expected, rtol=1e-3, atol=1e-3)


def test_projected_guidance_takes_no_step_along_the_predicted_image(tiny_pipeline):
    pipeline = tiny_pipeline(DDIMScheduler(prediction_type="v_prediction"))
    pipeline._guidance, pipeline._momentum = "apg", None
    cond, uncond, noisy = torch.randn(3, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(400)
    of_sample, of_output = pipeline._clean_image_factors(t)
    image = of_sample * noisy + of_output * cond
    changes = []
    for _ in range(2):
        guided = pipeline._guided(cond, uncond, noisy, t, 3.0, 0.0)
        changes.append(of_sample * noisy + of_output * guided - image)
        torch.testing.assert_close((changes[-1] * image).sum((1, 2, 3)), torch.zeros(2), rtol=0, atol=1e-3)
    expected = 2 * without_part_along(of_output * (cond - uncond), image)
    torch.testing.assert_close(changes[0], expected)
    torch.testing.assert_close(changes[1], expected / 2)  # a momentum of -0.5


def test_the_momentum_of_projected_guidance_ends_with_the_call(tiny_pipeline):
    pipeline = tiny_pipeline(DDIMScheduler())
    first, second = (sample(pipeline, guidance_scale=3.0, guidance="apg") for _ in range(2))
    assert torch.equal(first, second)


def test_the_fitted_output_is_the_nearest_multiple():
    cond, uncond = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    best = fitted(uncond, cond)
    for factor in (0.99, 1.01):
        farther = (cond - factor * best).square().sum((1, 2, 3))
        assert ((cond - best).square().sum((1, 2, 3)) < farther).all()
    torch.testing.assert_close(fitted(2 * cond, cond), cond)
    assert torch.equal(fitted(torch.zeros_like(cond), cond), torch.zeros_like(cond))


@pytest.mark.parametrize("guidance", ["apg", "cfg_zero_star"])
def test_an_image_does_not_depend_on_its_batch(tiny_pipeline, guidance):
    pipeline = tiny_pipeline(DDIMScheduler())
    options = {"class_labels": [0, 1, 2], "num_inference_steps": 3, "guidance_scale": 3.0, "guidance": guidance}
    together, alone = (
        torch.cat([torch.from_numpy(batch.images) for batch in generate(pipeline, batch_size=size, **options)])
        for size in (3, 1)
    )
    assert (together.int() - alone.int()).abs().max() <= 1


def test_a_guide_is_saved_and_loaded(guided, tmp_path):
    pipeline = guided()
    expected = sample(pipeline, guidance_scale=2.0)
    pipeline.save_pretrained(tmp_path / "model")
    for loaded in (
        load_pipeline(str(tmp_path / "model")),
        CFGDDPMPipeline.from_pretrained(tmp_path / "model"),
        DiffusionPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True),
    ):
        loaded.set_progress_bar_config(disable=True)
        assert torch.equal(sample(loaded, guidance_scale=2.0), expected)
    pipeline.set_guide(None)
    pipeline.save_pretrained(tmp_path / "without")
    assert "guide" not in json.loads((tmp_path / "without" / "model_index.json").read_text())
    assert set(pipeline.components) == {"unet", "scheduler"}


def test_the_guide_of_a_saved_model_is_checked(guided, tmp_path):
    guided().save_pretrained(tmp_path / "model")
    (config := tmp_path / "model/guide/config.json").write_text(config.read_text().replace("16", "24"))
    with pytest.raises(ValueError, match="guide/diffusion_pytorch_model.safetensors: "):
        load_pipeline(str(tmp_path / "model"))


def test_another_saved_model_becomes_the_guide(guided, tiny_pipeline, tmp_path):
    pipeline = guided()
    plain = tiny_pipeline(pipeline.scheduler)
    plain.save_pretrained(tmp_path / "model")
    CFGDDPMPipeline(pipeline.guide, plain.scheduler, plain.id2label, plain.null_label).save_pretrained(tmp_path / "weak")
    loaded = load_pipeline(str(tmp_path / "model"), guide=str(tmp_path / "weak"))
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(sample(loaded, guidance_scale=2.0), sample(pipeline, guidance_scale=2.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("cat", "dog", "bird")}, "its id2label is "),
        ({"names": None}, "its id2label is None"),
        ({"channels": 3}, "in_channels of the guide is 3: the network has 1"),
        ({"scheduler": DDIMScheduler(prediction_type="sample")}, "prediction_type of the scheduler is 'sample'"),
    ],
)
def test_a_guide_of_other_images_is_refused(tiny_pipeline, options, message, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    tiny_pipeline(**options).save_pretrained(tmp_path / "weak")
    with pytest.raises(ValueError, match=f"guide is .*weak': .*{message}") as caught:
        load_pipeline(str(tmp_path / "model"), guide=str(tmp_path / "weak"))
    assert "\n" not in str(caught.value)


def test_a_missing_guide_is_named(tiny_pipeline, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"guide is '.*nowhere': no such folder exists"):
        load_pipeline(str(tmp_path / "model"), guide=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("guidance", "message"), [("free", "give one of"), ("autoguidance", "the pipeline has no guide")])
def test_guidance_that_cannot_work_is_refused(tiny_pipeline, guidance, message):
    with pytest.raises(ValueError, match=f"guidance is '{guidance}': {message}"):
        tiny_pipeline()(0, guidance=guidance)


@pytest.mark.parametrize("guidance", ["cfg", None])
def test_an_evaluation_samples_with_its_guidance(guided, guidance):
    pipeline = guided()
    sampling = SamplingConfig(num_inference_steps=4, guidance_scale=2.0, guidance=guidance, guidance_interval=(0.4, 0.8))
    options = generation_options(pipeline, sampling)
    assert (options["guidance"], options["guidance_interval"]) == (guidance, (0.4, 0.8))
    assert count_nfe(pipeline, sampling) == 4 + 2  # guided at 749 and 499 of 999, 749, 499, 249


def test_a_model_with_a_guide_is_guided_by_default(guided):
    pipeline = guided(null=False)
    assert generation_options(pipeline, SamplingConfig())["guidance_scale"] == 1.5
    pipeline.set_guide(None)
    assert generation_options(pipeline, SamplingConfig())["guidance_scale"] == 1.0


def test_a_sweep_has_axes_of_guidance(tmp_path):
    grid = SweepGrid(guidance=["cfg", "apg"], guidance_interval=[(0.0, 1.0), (0.2, 0.8)])
    config = SweepConfig(output_dir=tmp_path, model="model", features="judge:judge", grid=grid)
    points = config.points()
    assert [point.name for point in points] == [
        f"{guidance}_interval-{interval}" for guidance in ("cfg", "apg") for interval in ("0-1", "0.2-0.8")
    ]
    last = point_config(config, points[-1]).sampling
    assert (last.guidance, last.guidance_interval) == ("apg", (0.2, 0.8))
