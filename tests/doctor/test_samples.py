"""Rules about samples, and what they are measured on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_ddpm.data.table import load_images
from hf_ddpm.doctor.examine import MEASURED_RULES, examine
from hf_ddpm.doctor.facts import read_facts
from hf_ddpm.doctor.measured import LabelGain, Measured, RealSet, SampledSet
from hf_ddpm.doctor.measurements import _label_gain, _nearest, _real_distances, measure
from hf_ddpm.run_folder import RunFolder

PREVIEW = SampledSet(scheduler="dpmsolver++", num_inference_steps=20, distances=[0.14, 0.14], frechet=0.2)
GOOD = Measured(
    samples=SampledSet(scheduler="DDPMScheduler", num_inference_steps=50, distances=[0.12, 0.14], frechet=0.21),
    preview=PREVIEW,
    real=RealSet(distances=[0.13, 0.14], is_held_out=True),
    label_gain=LabelGain(mean=0.5, stderr=0.02, num_images=360, is_held_out=True),
)


def names(measured: Measured) -> list[str]:
    return [answer.name for look in MEASURED_RULES if (answer := look(measured)) is not None]


def test_nothing_is_said_about_good_samples():
    assert names(GOOD) == []
    assert names(replace(GOOD, preview=None, label_gain=None)) == []


def test_copies():
    assert names(replace(GOOD, samples=replace(GOOD.samples, distances=[0.01, 0.03]))) == ["overfitting"]


def test_labels_that_make_no_difference():
    gain = LabelGain(mean=0.004, stderr=0.002, num_images=360, is_held_out=True)
    assert names(replace(GOOD, label_gain=gain)) == ["classes ignored"]


def test_labels_that_make_a_small_but_certain_difference():
    assert names(replace(GOOD, label_gain=replace(GOOD.label_gain, mean=0.01, stderr=0.002))) == []


def test_too_few_images_say_nothing_about_labels():
    assert names(replace(GOOD, label_gain=replace(GOOD.label_gain, mean=0.01, stderr=0.1))) == ["use of the classes"]


def test_samples_that_are_worse_than_the_preview():
    assert names(replace(GOOD, samples=replace(GOOD.samples, frechet=0.48))) == ["scheduler does not fit"]


def test_real_images_that_are_all_alike_say_nothing():
    assert names(replace(GOOD, real=RealSet(distances=[0.0], is_held_out=False))) == ["overfitting by the nearest image"]


@pytest.fixture
def digits():
    return load_images("digits", "test", image_size=8)


def test_a_training_image_is_not_its_own_neighbour(digits):
    rows = torch.tensor([0, 7, 359])
    queries = digits.images(rows).flatten(1).float().numpy() / 255
    assert np.all(_nearest(queries, digits) == 0)
    others = _nearest(queries, digits, but=rows)
    kept = np.delete(np.arange(len(digits)), 7)
    expected = _distances_to(queries[1], digits.images(torch.from_numpy(kept)))
    assert others[1] == pytest.approx(expected.min(), rel=1e-5)


def _distances_to(query, images):
    return np.sqrt(((images.flatten(1).numpy() / 255 - query) ** 2).mean(axis=1))


def test_real_images_are_held_out_ones_if_there_are_any(digits):
    train = load_images("digits", "train", image_size=8)
    assert len(_real_distances(train, digits, 5)) == 5
    assert _real_distances(train, train, 5).tolist() == [0.0] * 5
    assert min(_real_distances(train, None, 5)) > 0


def test_labels_gain_nothing_where_the_network_does_not_read_them(digits, tiny_pipeline):
    names = [str(number) for number in range(10)]
    pipeline = tiny_pipeline(names=names)
    assert _label_gain(pipeline, digits, is_held_out=True).mean != 0
    torch.nn.init.zeros_(pipeline.unet.class_embedding.weight)
    gain = _label_gain(pipeline, digits, is_held_out=True)
    assert (gain.mean, gain.num_images, gain.is_held_out) == (0, 360, True)
    assert _label_gain(tiny_pipeline(names=None), digits, is_held_out=True) is None


def test_a_run_is_measured(tiny_run):
    facts = read_facts(RunFolder(tiny_run))
    found = measure(facts, num_images=6, scheduler="ddim", num_inference_steps=2)
    assert (found.samples.scheduler, found.samples.num_inference_steps) == ("ddim", 2)
    assert (found.preview.scheduler, found.preview.num_inference_steps) == ("dpmsolver++", 20)
    assert [len(each.distances) for each in (found.samples, found.preview, found.real)] == [6, 6, 6]
    assert not found.real.is_held_out and not found.label_gain.is_held_out
    assert found.samples.frechet > 0 and found.preview.frechet > 0


def test_data_that_have_moved_are_said(tiny_run, tmp_path):
    facts = read_facts(RunFolder(tiny_run))
    facts.run.config["data"]["source"] = str(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"images that the run learned from cannot be read, .* or leave out `samples`"):
        measure(facts, num_images=6, scheduler=None, num_inference_steps=2)


def test_a_run_without_a_model_is_not_sampled(write_run, good_losses):
    assert any("saved no model" in gap.reason for gap in examine(write_run(good_losses), samples=True).gaps)


def test_a_stream_is_not_sampled(write_run, good_losses):
    run = write_run(good_losses, num_images=None, data={"streaming": True})
    run.pipeline.mkdir()
    (run.pipeline / "model_index.json").write_text("{}", encoding="utf-8")
    assert any("of a stream are not kept" in gap.reason for gap in examine(run, samples=True).gaps)
