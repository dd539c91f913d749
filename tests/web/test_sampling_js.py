"""sampling.js in node, against Python: the noise of a seed, every step of every sampler, links."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import lack
from diffusers import ConfigMixin, DDPMScheduler, LCMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config

from hf_ddpm.diffusion.randomness import counter_noise
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.schedulers import build_scheduler, drawing_noise
from hf_ddpm.web.samplers import clipping, step_rows

SAMPLING = Path(__file__).parents[2] / "hf_ddpm" / "web" / "page" / "sampling.js"
NAMES = {0: "cat", 1: "dog"}


@pytest.fixture(scope="module")
def in_node():
    """Run JavaScript with the functions of sampling.js and some JSON as `given`; the value that it returns."""
    node = shutil.which("node")
    if node is None:
        lack("there is no node")

    def run(code: str, given: object) -> object:
        program = f"""
            import * as all from {json.dumps(SAMPLING.as_uri())};
            import {{ readFileSync }} from "node:fs";
            const given = JSON.parse(readFileSync(0, "utf8"));
            console.log(JSON.stringify(await (async (all, given) => {{ {code} }})(all, given)));
        """
        command = [node, "--input-type=module", "--eval", program]
        done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


class Toy(ModelMixin, ConfigMixin):
    """A network that one line of JavaScript repeats."""

    @register_to_config
    def __init__(self, sample_size: int = 3, in_channels: int = 1, num_class_embeds: int = 3):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, sample, timesteps, class_labels, return_dict):
        labels, times = class_labels.view(-1, 1, 1, 1), timesteps.view(-1, 1, 1, 1)
        return (torch.sin(2 * sample) * (1 + labels) / 3 + times / 2000,)


PREDICT = """(images, t, labels) => {
    const size = images.length / labels.length;
    return images.map((x, i) => Math.sin(2 * x) * (1 + labels[Math.floor(i / size)]) / 3 + t / 2000);
}"""


def test_a_seed_is_the_same_noise(in_node):
    seeds = [0, 1, 2**32 - 1]
    given = [[seed, draw, count] for seed in seeds for draw in (0, 1, 1000) for count in (1, 7, 64)]
    code = "return given.map(([seed, draw, count]) => Array.from(all.counterNoise(seed, draw, count)));"
    for (seed, draw, count), noise in zip(given, in_node(code, given), strict=True):
        expected = counter_noise(seed, (count,), draw).numpy()
        np.testing.assert_allclose(np.array(noise, dtype=np.float32), expected, rtol=3e-7)


def scheduler_of(name: str, trained: DDPMScheduler):
    if name != "lcm":
        return build_scheduler(name, trained.config)
    same = ("beta_start", "beta_end", "beta_schedule", "prediction_type", "timestep_spacing")
    return LCMScheduler(**{key: trained.config[key] for key in same}, original_inference_steps=1000, clip_sample=False)


def test_every_sampler_takes_the_same_steps(in_node):
    cases, expected = [], []
    settings = [
        (name, prediction, betas)
        for name in ("ddim", "dpmsolver++", "lcm")
        for prediction in ("epsilon", "sample", "v_prediction")
        for betas in ("linear", "squaredcos_cap_v2")
    ]
    for name, prediction, betas in settings:
        trained = DDPMScheduler(prediction_type=prediction, beta_schedule=betas, timestep_spacing="trailing")
        pipeline = CFGDDPMPipeline(Toy(), trained, NAMES, null_label=2)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = scheduler = scheduler_of(name, trained)
        for steps in (1, 4, 20):
            draws = iter(range(100))

            def draw(shape, draws=draws):
                number = next(draws)
                return torch.stack([counter_noise(seed, shape[1:], number) for seed in (5, 6)])

            with drawing_noise(scheduler, draw):
                images = pipeline(
                    [0, 1],
                    guidance_scale=2.0,
                    num_inference_steps=steps,
                    latents=draw((2, 1, 3, 3)),
                    output_type="latent",
                ).images
            expected.append(images.flatten().tolist())
            cases.append({"clip": clipping(scheduler), "steps": {str(steps): step_rows(scheduler, steps)}})
    code = f"""
        const results = [];
        for (const sampler of given) {{
            const model = {{ shape: [1, 3, 3], null_label: 2, samplers: {{ it: sampler }} }};
            const jobs = [5, 6].map((seed, label) => ({{ seed, label, scale: 2 }}));
            const seen = [];
            const [steps] = Object.keys(sampler.steps);
            const images = await all.sample(model, "it", steps, jobs, {PREDICT}, (i) => seen.push(i));
            results.push({{ images: Array.from(images), seen: seen.length }});
        }}
        return results;
    """
    for case, result, wanted in zip(cases, in_node(code, cases), expected, strict=True):
        assert result["seen"] == len(next(iter(case["steps"].values())))
        np.testing.assert_allclose(result["images"], wanted, rtol=2e-4, atol=2e-4)


def test_guidance_is_within_the_interval_of_the_model(in_node):
    trained = DDPMScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    pipeline = CFGDDPMPipeline(Toy(), trained, NAMES, null_label=2)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = build_scheduler("ddim", trained.config)
    latents = torch.stack([counter_noise(seed, (1, 3, 3), 0) for seed in (5, 6)])
    interval = (0.249, 0.749)  # of the timesteps 249, 499, 749, 999 the first two
    options = {"guidance_scale": 2.0, "num_inference_steps": 4, "latents": latents, "output_type": "latent"}
    expected = pipeline([0, 1], guidance_interval=interval, **options).images.flatten().tolist()
    sampler = {"clip": clipping(pipeline.scheduler), "steps": {"4": step_rows(pipeline.scheduler, 4)}}
    code = f"""
        const {{ sampler, interval }} = given;
        const model = {{ shape: [1, 3, 3], null_label: 2, samplers: {{ it: sampler }}, guidance_interval: interval }};
        const jobs = [5, 6].map((seed, label) => ({{ seed, label, scale: 2 }}));
        return Array.from(await all.sample(model, "it", "4", jobs, {PREDICT}));
    """
    given = {"sampler": sampler, "interval": [bound * 1000 for bound in interval]}
    np.testing.assert_allclose(in_node(code, given), expected, rtol=2e-4, atol=2e-4)
    assert not np.allclose(in_node(code, {**given, "interval": None}), expected, rtol=1e-3)


MODEL = {
    "shape": [1, 8, 8],
    "classes": ["cat", "dog"],
    "null_label": 2,
    "model": "it's mine",
    "samplers": {"ddim": {"option": "ddim", "steps": {"5": [], "10": []}}, "dpmsolver++": {"steps": {"10": []}}},
    "defaults": {"sampler": "dpmsolver++", "steps": 10, "guidance": 1.5, "number": 4},
}


def test_a_link_says_what_it_means_or_what_is_wrong(in_node):
    links = {
        "": {"class": "all", "guidance": 1.5, "sampler": "dpmsolver++", "steps": 10, "seed": 0, "number": 4},
        "#class=1&sampler=ddim&steps=5": {
            "class": "1", "guidance": 1.5, "sampler": "ddim", "steps": 5, "seed": 0, "number": 4,
        },
        "#steps=7": "The link asks for steps “7”: give one of 10.",
        "#steps=": "The link asks for steps “”: give a number.",
        "#seed=1.5": "The link asks for seed “1.5”: give a whole number from 0 to 4294967295.",
        "#seed=1&seed=2": "The link asks for seed “1, 2”: give one value.",
        "#number=17": "The link asks for number “17”: give a whole number from 1 to 16.",
        "#guidance=1e9": "The link asks for guidance “1000000000”: give a number from 0 to 20.",
        "#class=dog": "The link asks for class “dog”: give all, or a number from 0 to 1.",
        "#sampler=toString": "The link asks for sampler “toString”: give ddim or dpmsolver++.",
        "#color=red": "The link asks for the setting “color”: this model has class, guidance, sampler, steps, seed, number.",
    }  # fmt: skip
    code = """return given.links.map((link) => {
        try {
            const settings = all.parseLink(link, given.model);
            return [settings, all.parseLink(all.formatLink(settings), given.model), all.commandOf(given.model, settings)];
        } catch (error) { return [error.message, error.message, null]; }
    });"""
    results = in_node(code, {"links": list(links), "model": MODEL})
    assert [result[0] for result in results] == list(links.values())
    assert [result[1] for result in results] == list(links.values())
    assert results[1][2] == (
        "hf-ddpm sample --model 'it'\\''s mine' --rng counter --class_labels dog --guidance_scale 1.5 --scheduler ddim "
        "--num_inference_steps 5 --num_images 4 --seed 0 --output_dir images"
    )


def test_without_classes_there_is_neither_a_class_nor_guidance(in_node):
    model = {**MODEL, "classes": None, "null_label": None}
    code = """
        const settings = all.defaults(given);
        return [settings, all.jobsOf(given, settings)[1], all.commandOf(given, settings)];
    """
    settings, job, command = in_node(code, model)
    assert settings == {"sampler": "dpmsolver++", "steps": 10, "seed": 0, "number": 4}
    assert job == {"seed": 1, "label": None, "scale": 1}
    assert "class" not in command and "guidance" not in command
