"""The diffusion classifier: against Bayes' rule with the exact network of Gaussians, its draws, and the command."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset
from diffusers import DDPMScheduler
from known_mean import KnownMean

from hf_ddpm.data.load_splits import load_splits
from hf_ddpm.data.options import SplitsConfig
from hf_ddpm.data.table import ImageTable
from hf_ddpm.evaluation.classifier_options import ClassifierConfig
from hf_ddpm.evaluation.diffusion_classifier import decide, draw
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.results import Results

CLASSES, SIZE, SPREAD, DISTANCE = 4, 8, 0.3, 0.6
"""Classes, pixels, standard deviation of each pixel, and distance of each mean from 0."""


class ClassGaussians(KnownMean):
    """The exact network of classes N(mean, SPREAD^2): images of each class differ from the others by their mean alone."""

    def forward(self, sample, timesteps, class_labels=None, return_dict=True):
        self.labels = class_labels
        return super().forward(sample, timesteps, class_labels, return_dict)

    def mean(self, x, alpha, sigma):
        means = class_means()[self.labels]
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        return means + gain * (x - alpha * means)


def class_means() -> torch.Tensor:
    directions = torch.randn(CLASSES, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return DISTANCE * directions / directions.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def gaussian_pipeline(prediction_type: str = "epsilon") -> CFGDDPMPipeline:
    scheduler = DDPMScheduler(prediction_type=prediction_type, beta_schedule="squaredcos_cap_v2")
    network = ClassGaussians(trained=dict(scheduler.config), sample_size=SIZE, num_class_embeds=CLASSES)
    network.register_to_config(out_channels=1)
    return CFGDDPMPipeline(network, scheduler, {label: f"class {label}" for label in range(CLASSES)}, None)


def gaussian_images(count: int) -> ImageTable:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(count) % CLASSES
    images = class_means()[labels] + SPREAD * torch.randn(count, 1, SIZE, SIZE, generator=generator, dtype=torch.float64)
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return ImageTable(
        pixels=Dataset.from_dict({"pixels": [image.numpy().tobytes() for image in pixels]}),
        channels=1,
        image_size=(SIZE, SIZE),
        class_names=[f"class {label}" for label in range(CLASSES)],
        class_labels=labels,
    )


@pytest.fixture
def config(tmp_path):
    return partial(ClassifierConfig, model="x", output=tmp_path / "x.json")


def test_the_accuracy_is_that_of_bayes(config):
    """With equal covariances and priors Bayes' rule is the nearest mean, and so is the least error of the exact network."""
    count, images = 200, gaussian_images(200)
    decisions = decide(config(trials=[8, 64], keep=[3]), gaussian_pipeline(), images, torch.arange(count))
    clean_images = images.images(torch.arange(count)).double() / 127.5 - 1
    distances = (clean_images[:, None] - class_means()).flatten(2).norm(dim=2)
    bayes = (distances.argmin(dim=1) == images.class_labels).double().mean().item()
    accuracy = np.mean([decision.preferred == decision.label for decision in decisions])
    assert 0.5 < bayes < 0.9, "hard enough to mean something"
    assert accuracy == pytest.approx(bayes, abs=2 * (bayes * (1 - bayes) / count) ** 0.5)
    nearest = distances.argmin(dim=1).tolist()
    assert np.mean([it.preferred == best for it, best in zip(decisions, nearest, strict=True)]) > 0.85, (
        "the rest is the noise of 64 trials"
    )


def test_margins_and_calls(config):
    images, everything = gaussian_images(12), config(trials=[16], keep=[])
    whole = decide(everything, gaussian_pipeline(), images, torch.arange(12))
    assert {decision.network_calls for decision in whole} == {16 * CLASSES}
    halved = decide(config(trials=[4, 16]), gaussian_pipeline(), images, torch.arange(12))
    assert {decision.network_calls for decision in halved} == {4 * CLASSES + 12 * 2}
    for decision in whole:
        assert decision.margin >= 0 and (decision.margin > 0) == (decision.preferred != decision.label)
        assert (decision.margin_stderr is None) == (decision.preferred == decision.label)


def test_what_is_predicted_does_not_matter(config):
    images = gaussian_images(8)
    first, *others = (
        decide(config(trials=[4]), gaussian_pipeline(kind), images, torch.arange(8))
        for kind in ("epsilon", "v_prediction", "sample")
    )
    for decisions in others:
        assert [(it.label, it.preferred) for it in decisions] == [(it.label, it.preferred) for it in first]
        assert [it.margin for it in decisions] == pytest.approx([it.margin for it in first], rel=1e-3, abs=1e-5)


def test_neither_batches_nor_the_share_of_a_process_matter(config, tiny_pipeline):
    pipeline, images = tiny_pipeline(names=[f"class {label}" for label in range(CLASSES)]), gaussian_images(9)
    whole = decide(config(trials=[2, 4]), pipeline, images, torch.arange(9))
    parts = [decide(config(trials=[2, 4], batch_size=3), pipeline, images, part) for part in torch.arange(9).split(4)]
    for one, other in zip(whole, sum(parts, []), strict=True):
        assert replace(one, margin=0, margin_stderr=None) == replace(other, margin=0, margin_stderr=None)
        assert one.margin == pytest.approx(other.margin, rel=1e-4, abs=1e-7)
    assert decide(config(trials=[2, 4], seed=1), pipeline, images, torch.arange(9)) != whole


def test_timesteps_are_evenly_spread_after_any_power_of_two():
    pipeline = gaussian_pipeline()
    timesteps, noise = zip(*(draw(0, [3, 4], trial, torch.Size((1, 2, 2)), pipeline) for trial in range(8)), strict=True)
    for image in range(2):
        drawn = torch.stack(timesteps)[:, image]
        for count in (2, 4, 8):
            assert sorted((drawn[:count] * count // 1000).tolist()) == list(range(count))
    assert len({float(one.flatten()[0]) for one in noise}) == 8
    assert not torch.equal(noise[0][0], noise[0][1])


def test_the_command(tiny_run, load_script, capsys, tmp_path):
    tiny_run = shutil.copytree(tiny_run, tmp_path / "run")
    output = tiny_run / "results" / "classifier.json"
    options = [f"--model={tiny_run / 'pipeline'}", "--num_images=20", "--trials=[1, 2]", "--num_threads=1"]
    load_script("classify").main([*options, f"--output={output}"])
    assert "20 images of the test split" in (text := capsys.readouterr().out)
    assert f"written: {output} {output.with_suffix('.md')} {output.with_suffix('.png')}" in text
    content, results = json.loads(output.read_text()), Results.read(output)
    accuracy = results.metrics["diffusion_classifier_accuracy"]
    assert (accuracy.n, results.protocol["num_images"], results.protocol["network_calls"]) == (20, 20, 10 + 5)
    assert accuracy.mean == pytest.approx(1 - len(content["doubted"]) / 20)
    assert accuracy.stderr == pytest.approx((accuracy.mean * (1 - accuracy.mean) / 20) ** 0.5)
    assert sum(sum(counts.values()) for counts in content["confusion"].values()) == 20
    margins = [doubt["margin"] for doubt in content["doubted"]]
    assert margins == sorted(margins, reverse=True) and margins[-1] > 0
    assert "diffusion_classifier_accuracy" in (tiny_run / "pipeline" / "README.md").read_text()
    _, test = load_splits(SplitsConfig(source="digits", test_split="test"), image_size=8)
    assert test is not None and test.class_labels is not None and test.class_names is not None
    for doubt in content["doubted"]:
        assert test.class_names[test.class_labels[doubt["row"]]] == doubt["label"], "the row is that of the split"


def test_rows_are_those_of_the_split_when_only_some_classes_are_read():
    data = SplitsConfig(source="digits", labels=[7, 3], max_images=9)
    some, everything = (load_splits(it, image_size=8)[0] for it in (data, SplitsConfig(source="digits")))
    assert some.rows is not None and len(some.rows) == 9 and everything.rows is None
    assert torch.equal(some.images(torch.arange(9)), everything.images(torch.from_numpy(some.rows)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": [4, 4]}, "--trials is .*give increasing numbers"),
        ({"trials": []}, "--trials is .*give increasing numbers"),
        ({"keep": [5]}, r"--keep is \[5\]: --trials has 3 stages, give a number for each but the last"),
        ({"keep": [2, 3]}, "--keep is .*at least 2 that do not grow"),
        ({"keep": [1, 1]}, "--keep is .*at least 2"),
        ({"num_images": 0}, "--num_images is 0"),
        ({"output": "x.txt"}, "--output is 'x.txt': give a file name that ends with .json"),
    ],
)
def test_options_that_cannot_work(config, options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_models_that_have_no_classes_are_refused(tiny_pipeline, tmp_path, load_script, capsys):
    for name, names, message in (
        ("unconditional", None, "it is not conditional on the class"),
        ("single", ["cat"], "it has a single class"),
        ("distilled", ["cat", "dog"], "it was distilled and does not denoise at all timesteps, give its teacher"),
        ("strangers", ["cat", "dog"], "--data: the model does not know class '0', only cat, dog"),
    ):
        pipeline = tiny_pipeline(names=names)
        if name == "distilled":
            pipeline.register_to_config(default_num_inference_steps=4)
        pipeline.save_pretrained(tmp_path / name)
        with pytest.raises(SystemExit) as stopped:
            load_script("classify").main(
                [f"--model={tmp_path / name}", "--data.source=digits", f"--output={tmp_path / 'out.json'}"]
            )
        *_, error = capsys.readouterr().err.splitlines()  # after what decoding shows
        assert stopped.value.code == 2 and message in error and ": --" in error
    assert not (tmp_path / "out.json").exists()
