"""Pipelines of models that are conditioned on sets of labels or on numbers."""

import json

import numpy as np
import pytest
import torch
from accelerate import PartialState
from diffusers import DDIMScheduler

from hf_ddpm.models.condition_unet import ConditionUNet
from hf_ddpm.models.unet import build_unet, unet_arguments
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sample_folder import sample_to_folder
from hf_ddpm.sampling import condition_name, load_pipeline, resolve_labels

LABELS, NUMBER = ["cat", "red", "a+b"], ["brightness"]
SHAPE = {"block_out_channels": [8, 16], "norm_num_groups": 4}


def tiny(names=LABELS, condition_range=None, null: bool = True) -> CFGDDPMPipeline:
    torch.manual_seed(0)
    entries = len(names) + null
    arguments = unet_arguments("digits8", SHAPE, num_class_embeds=entries, architecture="condition_unet")
    network = build_unet(arguments | {"condition_range": condition_range}, architecture="condition_unet").eval()
    null_label = len(names) if null else None
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    pipeline = CFGDDPMPipeline(network, scheduler, id2label=dict(enumerate(names)), null_label=null_label)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def of_numbers(**options) -> CFGDDPMPipeline:
    return tiny(NUMBER, [0.2, 0.8], **options)


PIPELINES = {"labels": tiny, "number": of_numbers}
EXAMPLES = {"labels": [["cat", "red"], []], "number": [0.2, 0.75]}
both = pytest.mark.parametrize("condition", list(PIPELINES))


def latents(pipeline: CFGDDPMPipeline, labels, count: int = 2, **options) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    return pipeline(labels, num_inference_steps=3, generator=generators, output_type="latent", **options).images


def vectors(pipeline: CFGDDPMPipeline, labels) -> list[list[float]]:
    return pipeline.prepare_labels(labels, 1, torch.device("cpu")).tolist()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([["cat", "red"], ["red"], []], [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]),
        ([[0, "red"], (2,), {1}], [[1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]),
        (["cat+red", "", "a+b", 1], [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]),
        ("red+cat", [[1, 1, 0, 0]]),
        (np.array([0, 2]), [[1, 0, 0, 0], [0, 0, 1, 0]]),
        (None, [[0, 0, 0, 1]]),
    ],
)
def test_each_image_gets_the_vector_of_its_set_of_labels(labels, expected):
    assert vectors(tiny(), labels) == expected


def test_each_image_gets_its_number():
    pipeline = of_numbers()
    assert vectors(pipeline, [0.5, 0.25]) == [[0.5, 0], [0.25, 0]]
    assert vectors(pipeline, torch.tensor([0.5])) == [[0.5, 0]] and vectors(pipeline, 0.5) == [[0.5, 0]]
    assert vectors(pipeline, None) == [[0, 1]]
    low = float(np.float32(0.2))  # as data in float32 have it
    assert pipeline.get_label_ids(low) == [low]


@pytest.mark.parametrize(
    ("condition", "labels", "words"),
    [
        ("labels", "cat+dog", "class_labels is 'dog': no such name"),
        ("labels", [["cat", "cat"]], "a label is in it twice"),
        ("labels", [[3]], "class_labels is 3: give names (str) or ids from 0 to 2"),
        ("labels", [0.5], "class_labels is 0.5"),
        ("labels", [[True]], "class_labels is True"),
        ("labels", torch.ones(2, 3), "give one label, list of labels or number for each image"),
        ("number", "0.5", "trained with numbers, give a number from 0.2 to 0.8"),
        ("number", [0.5, 0.9], "class_labels is 0.9"),
        ("number", float("nan"), "class_labels is nan"),
        ("number", [[0.5]], "class_labels is [0.5]"),
        ("number", True, "class_labels is True"),
    ],
)
def test_a_condition_that_the_model_does_not_know_is_refused(condition, labels, words):
    with pytest.raises(ValueError) as raised:
        PIPELINES[condition]()(labels)
    assert words in str(raised.value)


@both
def test_guidance_leads_from_the_null_condition_to_the_condition(condition):
    pipeline, labels = PIPELINES[condition](), EXAMPLES[condition]
    plain, null = (latents(pipeline, labels, guidance_scale=scale) for scale in (1.0, 0.0))
    torch.testing.assert_close(null, latents(pipeline, None, batch_size=2))
    assert not torch.allclose(plain, null) and not torch.allclose(plain, latents(pipeline, labels, guidance_scale=3.0))
    latent, t, ids = torch.randn(2, 1, 8, 8), torch.tensor(500), pipeline.prepare_labels(labels, 1, torch.device("cpu"))
    c, u, guided = (pipeline.predict(latent, t, ids, scale, 0.0) for scale in (1.0, 0.0, 3.0))
    torch.testing.assert_close(guided, u + 3 * (c - u), rtol=1e-4, atol=1e-4)


@both
def test_without_a_null_condition_a_model_wants_conditions_and_is_not_guided(condition):
    pipeline = PIPELINES[condition](null=False)
    latents(pipeline, EXAMPLES[condition])
    with pytest.raises(ValueError, match="no null label"):
        pipeline(None)
    with pytest.raises(ValueError, match="guidance_scale"):
        pipeline(EXAMPLES[condition], guidance_scale=2.0)


@both
def test_saved_and_loaded_with_its_code(condition, tmp_path):
    pipeline = PIPELINES[condition]()
    pipeline.save_pretrained(tmp_path)
    assert (tmp_path / "unet/condition_unet.py").is_file()
    again = load_pipeline(str(tmp_path))
    assert type(again.unet) is ConditionUNet and again.condition == condition
    again.set_progress_bar_config(disable=True)
    labels = EXAMPLES[condition]
    torch.testing.assert_close(latents(again, labels, guidance_scale=2.0), latents(pipeline, labels, guidance_scale=2.0))


@pytest.mark.parametrize(
    ("condition", "tokens", "expected"),
    [
        ("labels", ["cat+red", "2", "0+1", "", "a+b"], [[0, 1], [2], [0, 1], [], [2]]),
        ("labels", None, [[0], [1], [2]]),
        ("number", ["0.2", "8e-1", 0.5], [0.2, 0.8, 0.5]),
        ("number", None, [float(number) for number in np.linspace(0.2, 0.8, 10)]),
    ],
)
def test_the_words_of_a_command_line(condition, tokens, expected):
    pipeline = PIPELINES[condition]()
    assert resolve_labels(pipeline, tokens, 1, None) == expected
    assert resolve_labels(pipeline, tokens, None, len(expected) + 1) == [*expected, expected[0]]


def test_conditions_in_words():
    names = dict(enumerate(LABELS))
    words = [condition_name(label, names) for label in (1, [0, 2], [], 0.5, 7, None)]
    assert words == ["red", "cat+a+b", "none", "0.5", "7", "None"]


@pytest.mark.parametrize(
    ("condition", "written", "array"),
    [("labels", [["cat", "red"], []], [[True, True, False], [False] * 3]), ("number", [0.2, 0.75], [0.2, 0.75])],
)
def test_a_folder_of_samples_records_the_conditions(condition, written, array, tmp_path):
    pipeline = PIPELINES[condition]()
    labels, options = pipeline.get_label_ids(EXAMPLES[condition]), {"processes": PartialState(), "num_inference_steps": 2}
    sample_to_folder(pipeline, labels, tmp_path / "png", row_length=1, grid=tmp_path / "grid.png", **options)
    lines = (tmp_path / "png" / "metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == written
    sample_to_folder(pipeline, labels, tmp_path / "npz", file_format="npz", **options)
    with np.load(tmp_path / "npz" / "samples.npz") as arrays:
        assert arrays["class_labels"].tolist() == array
