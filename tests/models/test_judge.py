"""Judges: their view of images, and what is refused when one is read."""

import dataclasses
import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import ResNetForImageClassification

from hf_ddpm.models.judge import (
    MAX_IMAGE_SIZE,
    Judge,
    JudgeRecord,
    build_network,
    load_judge,
    prepare_pixels,
    save_judge,
)

RECORD = JudgeRecord(
    accuracy=0.75,
    num_test_images=4,
    seed=3,
    sha256="",
    image_size=8,
    channels=1,
    class_names=["cat", "dog", "Käfer"],
    source="pets",
    data_fingerprint="ab" * 32,
)


def make_judge(**changes) -> Judge:
    record = dataclasses.replace(RECORD, **changes)
    torch.manual_seed(0)
    network = build_network(widths=[4, 6], depths=[1, 2], channels=record.channels, class_names=record.class_names)
    return Judge(network, record)


def some_images(count: int, channels: int = 1, size: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


@pytest.fixture
def saved(tmp_path):
    """The folder of a judge that is sound."""
    save_judge(make_judge(), tmp_path / "judge")
    return tmp_path / "judge"


def change(file, **values) -> None:
    """Set keys of a JSON file, or remove those that are to be ...."""
    merged = json.loads(file.read_text()) | values
    file.write_text(json.dumps({name: value for name, value in merged.items() if value is not ...}))


def refusal(call) -> str:
    with pytest.raises(ValueError) as refused:
        call()
    message = str(refused.value)
    assert "\n" not in message and len(message) < 500
    return message


# What a judge says


def test_features_and_logits_have_their_shapes():
    judge = make_judge()
    output = judge(some_images(5))
    assert output.features.shape == (5, 6) == (5, judge.dim)
    assert output.logits.shape == (5, 3)
    assert output.features.dtype == output.logits.dtype == torch.float32
    assert not output.logits.requires_grad


def test_logits_are_those_of_the_whole_network():
    judge, images = make_judge(), some_images(4)
    whole = judge.network(prepare_pixels(images)).logits
    assert torch.allclose(judge(images).logits, whole, atol=1e-6)


def test_an_image_is_judged_the_same_in_any_batch():
    """In evaluation the batch norm takes no statistics from the batch, even for a network that was in training."""
    network = make_judge().network.train()
    judge, images = Judge(network, RECORD), some_images(9)
    whole, one_by_one = judge(images), [judge(image[None]) for image in images]
    assert torch.allclose(whole.features, torch.cat([output.features for output in one_by_one]), atol=1e-5)
    assert torch.allclose(whole.logits, torch.cat([output.logits for output in one_by_one]), atol=1e-5)


@pytest.mark.parametrize(("size", "expected"), [(1, 32), (8, 32), (28, 32), (32, 32), (40, 40)])
def test_small_images_are_enlarged(size, expected):
    pixels = prepare_pixels(some_images(2, size=size))
    assert pixels.shape == (2, 1, expected, expected)
    assert pixels.dtype == torch.float32
    assert pixels.min() >= -1 and pixels.max() <= 1


def test_pixels_cover_the_range_and_are_bilinear():
    extremes = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 28, 28)
    black, white = prepare_pixels(extremes)
    assert (black == -1).all() and (white == 1).all()
    images = some_images(2)
    bilinear = functional.interpolate(images.double(), (32, 32), mode="bilinear", align_corners=False)
    assert torch.allclose(prepare_pixels(images).double(), bilinear / 127.5 - 1, atol=1e-5)


@pytest.mark.parametrize(
    "images",
    [
        some_images(2, channels=3),
        some_images(2, size=9),
        some_images(2)[..., :4],
        some_images(2)[0],
        some_images(2).float(),
    ],
    ids=["rgb", "size", "not square", "no batch", "floats"],
)
def test_other_images_are_refused(images):
    message = refusal(lambda: make_judge()(images))
    assert "takes (B, 1, 8, 8) uint8" in message and str(tuple(images.shape)) in message


def test_gray_images_are_refused_by_a_judge_of_colour_images():
    assert "takes (B, 3, 8, 8)" in refusal(lambda: make_judge(channels=3)(some_images(2)))


@pytest.mark.parametrize(
    ("widths", "depths"),
    [
        ([], []),
        ([8], [1, 1]),
        ([0], [1]),
        ([8, -8], [1, 1]),
        ([10**9], [1]),
        ([8], [10**9]),
        ([8] * 9, [1] * 9),
        ([8.0], [1]),
    ],
)
def test_a_network_that_is_not_a_small_classifier_is_refused(widths, depths):
    build = lambda: build_network(widths=widths, depths=depths, channels=1, class_names=["a", "b"])  # noqa: E731
    assert "widths" in refusal(build)


def test_a_network_of_too_many_parameters_is_refused():
    build = lambda: build_network(widths=[4096] * 2, depths=[2] * 2, channels=1, class_names=["a", "b"])  # noqa: E731
    assert "parameters" in refusal(build)


# On the disk


@pytest.mark.parametrize("where", ["judge", "."])
def test_a_saved_judge_says_the_same(saved, where):
    """`where`: the folder itself, or that of the run."""
    judge, images = make_judge(), some_images(3)
    loaded = load_judge(str((saved / "..").resolve() / where))
    assert torch.equal(loaded(images).features, judge(images).features)
    assert torch.equal(loaded(images).logits, judge(images).logits)
    assert dataclasses.replace(loaded.record, sha256="") == RECORD
    assert not loaded.network.training


def test_saving_gives_the_record_the_digest_of_the_weights(tmp_path):
    judge, again = make_judge(), make_judge()
    save_judge(judge, tmp_path / "new" / "folder")
    save_judge(again, tmp_path / "again")
    assert len(judge.record.sha256) == 64 and judge.record == again.record
    with torch.no_grad():
        next(again.network.parameters()).add_(1e-3)
    save_judge(again, tmp_path / "again")
    assert judge.record.sha256 != again.record.sha256


def test_it_is_a_model_of_transformers(saved):
    images = some_images(3)
    model = ResNetForImageClassification.from_pretrained(saved, use_safetensors=True).eval()
    assert torch.allclose(model(prepare_pixels(images)).logits, load_judge(saved)(images).logits, atol=1e-5)
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "Käfer"}


def test_files_have_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save_judge(make_judge(), tmp_path / "judge")
    finally:
        os.umask(before)
    files = sorted((tmp_path / "judge").iterdir())
    assert [file.name for file in files] == ["config.json", "judge.json", "model.safetensors"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o640}


# What is refused


def test_no_folder_and_no_judge(tmp_path):
    assert "no such folder" in refusal(lambda: load_judge(tmp_path / "gone"))
    assert "not a judge" in refusal(lambda: load_judge(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    assert name in refusal(lambda: load_judge(saved))


def test_changed_weights_are_refused(saved):
    weights = saved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "sha256" in refusal(lambda: load_judge(saved))


def vouch(folder) -> None:
    """Let the record of a judge name the weights that are there."""
    change(folder / "judge.json", sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())


def rewrite_weights(folder, edit) -> None:
    """Edit the tensors of a judge, and let its record vouch for them."""
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    edit(tensors)
    save_file(tensors, weights)
    vouch(folder)


@pytest.mark.parametrize(
    "edit", [lambda t: t.pop("classifier.1.bias"), lambda t: t.update({"classifier.1.bias": torch.ones(9)})]
)
def test_weights_of_another_network_are_refused(saved, edit):
    rewrite_weights(saved, edit)
    assert "classifier.1.bias" in refusal(lambda: load_judge(saved))


def test_weights_that_are_not_safetensors_are_refused(saved):
    torch.save({"a": torch.ones(1)}, saved / "model.safetensors")
    vouch(saved)
    assert str(saved) in refusal(lambda: load_judge(saved))


def test_no_other_format_is_read(saved):
    shutil.move(saved / "model.safetensors", saved / "pytorch_model.bin")
    assert "model.safetensors" in refusal(lambda: load_judge(saved))


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_sizes": [10**9, 10**9]},
        {"hidden_sizes": [4096, 4096], "depths": [64, 64], "embedding_size": 4096},
        {"depths": [10**6, 1]},
        {"hidden_sizes": "ab"},
        {"hidden_sizes": {"0": 1}},
        {"hidden_sizes": [True, 6]},
        {"embedding_size": 10**9},
        {"num_channels": 10**9},
        {"layer_type": "bottleneck"},
        {"hidden_act": "eval"},
        {"downsample_in_first_stage": [1]},
        {"model_type": "vit"},
        {"depths": ...},
    ],
    ids=str,
)
def test_a_hostile_config_is_refused_before_anything_is_allocated(saved, values):
    (saved / "model.safetensors").unlink()  # so that no refusal can come from comparing tensors
    change(saved / "config.json", **values)
    message = refusal(lambda: load_judge(saved))
    assert any(word in message for word in ("widths", "parameters", *values))


def test_code_named_by_a_config_is_not_looked_at(saved):
    change(saved / "config.json", auto_map={"AutoModel": "evil.Evil"}, architectures=["Evil"], torch_dtype="evil")
    assert load_judge(saved).network.config.architectures == ["ResNetForImageClassification"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 1.01),
        ("accuracy", "1"),
        ("accuracy", True),
        ("accuracy", float("nan")),
        ("num_test_images", 0),
        ("seed", -1),
        ("image_size", MAX_IMAGE_SIZE + 1),
        ("image_size", 8.0),
        ("channels", 2),
        ("class_names", "abc"),
        ("class_names", [1, 2, 3]),
        ("class_names", []),
        ("class_names", ["cat", "dog"]),
        ("sha256", None),
        ("source", 1),
        ("data_fingerprint", ...),
    ],
)
def test_an_invalid_record_is_refused(saved, name, value):
    change(saved / "judge.json", **{name: value})
    refusal(lambda: load_judge(saved))


@pytest.mark.parametrize("text", ["", "[1]", "{", "\xff", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "judge.json"])
def test_files_that_are_not_json_are_refused(saved, name, text):
    (saved / name).write_text(text, encoding="latin-1")
    assert name in refusal(lambda: load_judge(saved))


@pytest.mark.parametrize("value", [None, [], {}, "x", -1, 1e9, float("nan"), ...], ids=repr)
def test_every_key_of_every_file_with_values_that_cannot_work(saved, value):
    """It loads and judges, or one line names the file."""
    for name in ("config.json", "judge.json"):
        file = saved / name
        before = file.read_text()
        for key in json.loads(before):
            change(file, **{key: value})
            try:
                judge = load_judge(saved)
            except ValueError as refused:
                message = str(refused)
                assert name in message or "model.safetensors" in message, message
                assert "\n" not in message and len(message) < 600
            else:
                assert judge(some_images(2)).logits.shape == (2, 3)
            file.write_text(before)


@pytest.mark.parametrize("fault", ["dtype", "nan"])
def test_weights_of_another_type_and_weights_that_are_not_finite_are_refused(saved, fault):
    weights = load_file(saved / "model.safetensors")
    name = next(name for name in weights if name.endswith("classifier.1.weight"))
    weights[name] = weights[name].long() if fault == "dtype" else weights[name] * float("nan")
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    change(saved / "judge.json", sha256=hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest())
    assert f"model.safetensors: {'the dtype of ' if fault == 'dtype' else ''}{name} is" in refusal(lambda: load_judge(saved))


def test_a_judge_of_other_images_takes_these_only_and_says_so_in_its_file(tmp_path):
    values = {"pixel_type": "uint16", "value_range": (100.0, 4095.0)}
    judge = make_judge(image_size=(24, 16), channels=4, **values)
    save_judge(judge, tmp_path)
    record, judge = judge.record, load_judge(tmp_path)
    assert judge.record == record
    images = torch.randint(100, 4096, (3, 4, 24, 16)).to(torch.uint16)
    assert judge(images, (100.0, 4095.0)).features.shape == (3, 6)
    for wrong, values in (
        (images, (0.0, 4095.0)),
        (images.to(torch.uint8), None),
        (images.transpose(2, 3), (100.0, 4095.0)),
    ):
        with pytest.raises(ValueError, match=r"takes \(B, 4, 24, 16\) uint16 from 100 to 4095 images and got"):
            judge(wrong, values)


def test_small_images_are_enlarged_in_their_proportions():
    images = torch.randint(0, 256, (2, 1, 8, 12), dtype=torch.uint8)
    assert prepare_pixels(images).shape == (2, 1, 32, 48)
    assert prepare_pixels(images.repeat(1, 1, 8, 8)).shape == (2, 1, 64, 96)


def test_the_file_of_a_judge_of_8_bits_is_as_before():
    assert not {"pixel_type", "value_range"} & set(json.loads(RECORD.to_json()))
