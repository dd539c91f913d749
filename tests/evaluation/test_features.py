"""Extractors: what they refuse, and what their features depend on."""

import json

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torchmetrics.image.fid import FrechetInceptionDistance
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from hf_ddpm.evaluation.features import Extractor, build_extractor
from hf_ddpm.metrics.frechet import RunningStatistics, frechet_distance
from hf_ddpm.models.judge import Judge, JudgeRecord, build_network, save_judge

NAMES = ["zero", "one", "two"]


class Projection(torch.nn.Module):
    """Random features of 1 x 8 x 8 images, with a dropout and running moments that must not be at work."""

    num_features = 6

    def __init__(self, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(64, 6, generator=generator) / 64)
        self.rest = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5))

    def forward(self, images):
        assert images.dtype == torch.uint8
        return self.rest(images.flatten(1).float() @ self.weight)


def images(count: int = 7, channels: int = 1, size: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def refusal(*args, **kwargs) -> str:
    with pytest.raises(ValueError) as caught:
        build_extractor(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    """A folder with a tiny DINOv2 of seeded weights that takes 28 pixels."""
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    processor = {"crop_size": size, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "do_resize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A folder with a tiny judge of seeded weights that says of itself that it is right."""
    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    network = build_network(widths=[8, 12], depths=[1, 1], channels=1, class_names=NAMES)
    record = JudgeRecord(
        accuracy=0.99,
        num_test_images=100,
        seed=0,
        sha256="",
        image_size=8,
        channels=1,
        class_names=NAMES,
        source="digits",
        data_fingerprint="0",
    )
    save_judge(Judge(network, record), folder)
    return folder


@pytest.fixture(params=["module", "dinov2", "judge"])
def extractor(request) -> Extractor:
    if request.param == "module":
        return build_extractor(Projection(), device="cpu")
    return build_extractor(f"{request.param}:{request.getfixturevalue(request.param)}", device="cpu")


def test_features_depend_neither_on_the_batch_nor_on_modes_around_them(extractor):
    batch = images()
    whole = extractor(batch)
    assert whole.features.shape == (7, extractor.dim) and whole.features.dtype == torch.float32
    assert whole.features.std() > 0.01 and not whole.features.requires_grad
    parts = torch.cat([found.features for found in map(extractor, batch.split(3))])
    torch.testing.assert_close(parts, whole.features)
    torch.testing.assert_close(extractor(batch.flip(0)).features.flip(0), whole.features)
    before = torch.get_float32_matmul_precision()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extractor(batch).features, whole.features)
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, 1, 8, 8), "images.dtype is torch.float32: give uint8"),
        (images(0), "images.shape is (0, 1, 8, 8)"),
        (images(1)[0], "images.shape is (1, 8, 8)"),
    ],
)
def test_a_wrong_batch_of_pixels_is_refused(extractor, batch, message):
    with pytest.raises(ValueError) as caught:
        extractor(batch)
    assert str(caught.value).startswith(message)


def test_dinov2_and_inception_refuse_other_channels_than_those_of_gray_and_rgb(dinov2):
    extractor = build_extractor(f"dinov2:{dinov2}", device="cpu")
    with pytest.raises(ValueError, match="takes gray and RGB images, but these have 4 channels: give judge:FOLDER"):
        extractor(images(2, channels=4))


def test_values_of_more_bits_are_scaled_to_8_bits_but_for_judges():
    deep = torch.arange(64).reshape(1, 1, 8, 8).mul(65).to(torch.uint16)  # 0 to 4095
    extractor, plain = build_extractor(Projection(), device="cpu"), deep.float().mul(255 / 4095).round().to(torch.uint8)
    assert torch.equal(extractor(deep, (0, 4095)).features, extractor(plain).features)
    with pytest.raises(ValueError, match="images.dtype is torch.uint16: give uint8 .* or the range of other values"):
        extractor(deep)


@pytest.mark.parametrize("features", ["", "fid", "judge", "judge:", "dinov2:", "Inception", "inception:x", "dinov3"])
def test_unknown_features_are_refused(features):
    assert refusal(features) == f"features is {features!r}: give inception, dinov2, dinov2:HUB_ID_OR_FOLDER or judge:FOLDER"


@pytest.mark.parametrize("device", ["no_such_device", "cuda:99"])
def test_a_missing_device_is_refused(device):
    assert refusal(Projection(), device=device) == f"device is {device!r}: torch cannot use it here, give cpu or another"


def test_inception_weights_are_refused_with_other_features(judge):
    for features in (f"judge:{judge}", Projection()):
        assert refusal(features, inception_weights="w.pth").startswith("inception_weights is 'w.pth': only with features")
    assert refusal("inception", inception_weights="missing.pth").startswith(
        "inception_weights is 'missing.pth': no such file"
    )


# DINOv2


@pytest.mark.parametrize("channels", [1, 3])
def test_dinov2_gives_the_class_token_of_what_its_processor_makes(dinov2, channels):
    batch = images(2, channels, 28)
    processor = BitImageProcessor.from_pretrained(dinov2, do_center_crop=False, do_convert_rgb=False, do_resize=False)
    rgb = batch.expand(-1, 3, -1, -1)
    pixels = processor(list(rgb), return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(dinov2)(pixels).pooler_output
    extractor = build_extractor(f"dinov2:{dinov2}", device="cpu")
    torch.testing.assert_close(extractor(batch).features, expected)
    assert extractor.name == f"dinov2_{extractor.digest[:8]}" and extractor.class_names is None
    assert extractor(batch).probabilities is None


def test_dinov2_sees_the_border_of_small_images(dinov2):
    extractor, batch = build_extractor(f"dinov2:{dinov2}", device="cpu"), images(1, 3, 8)
    framed = batch.clone()
    framed[..., 0] = 255 - framed[..., 0]
    assert not torch.allclose(extractor(batch).features, extractor(framed).features, atol=1e-3)


def test_an_incomplete_dinov2_is_refused(dinov2, tmp_path, capfd):
    def copy(name: str):
        folder = tmp_path / name
        folder.mkdir()
        for file in dinov2.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    folder = copy("without_a_weight")
    state = load_file(folder / "model.safetensors")
    state.pop("layernorm.weight")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    capfd.readouterr()
    assert "layernorm.weight" in refusal(f"dinov2:{folder}")
    assert capfd.readouterr() == ("", ""), "nothing but the one line of the error"
    folder = copy("without_processor")
    (folder / "preprocessor_config.json").unlink()
    assert "crop_size" in refusal(f"dinov2:{folder}")
    for processor in ("{}", "[]", "no JSON", '{"crop_size": {"height": 28}, "image_mean": [0.5], "image_std": [1]}'):
        (folder / "preprocessor_config.json").write_text(processor)
        assert "crop_size" in refusal(f"dinov2:{folder}")
    folder = copy("pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "no .safetensors" in refusal(f"dinov2:{folder}")
    folder = copy("cut")
    (folder / "model.safetensors").write_bytes((dinov2 / "model.safetensors").read_bytes()[:-5])
    assert "cannot be loaded" in refusal(f"dinov2:{folder}")


def test_without_a_connection_dinov2_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for features in ("dinov2", "dinov2:nobody/nothing", "dinov2:no such folder/at/all"):
        message = refusal(features)
        assert message.startswith(f"features is {features!r}: it is not a folder") and "give dinov2:FOLDER" in message


# A judge


def test_a_judge_gives_features_probabilities_and_the_names_of_its_classes(judge):
    extractor = build_extractor(f"judge:{judge}", device="cpu")
    found = extractor(images())
    assert (extractor.name, extractor.dim, extractor.class_names) == ("judge", 12, NAMES)
    assert extractor.digest == json.loads((judge / "judge.json").read_text())["sha256"]
    assert found.probabilities.shape == (7, 3)
    torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(7, dtype=torch.float64))


def test_a_weak_judge_is_refused_unless_any_is_accepted(judge):
    assert "its accuracy is 0.9900 on 100 test images" in refusal(f"judge:{judge}", min_judge_accuracy=0.995)
    for accepted in (0.99, None):
        build_extractor(f"judge:{judge}", device="cpu", min_judge_accuracy=accepted)


def test_images_of_another_shape_than_the_judges_are_refused(judge):
    extractor = build_extractor(f"judge:{judge}", device="cpu")
    for batch in (images(2, 3, 8), images(2, 1, 9)):
        with pytest.raises(ValueError, match="takes"):
            extractor(batch)
    assert "judge" in refusal("judge:/nowhere")


# A module


def test_a_module_is_used_in_evaluation_mode_as_a_copy():
    module = Projection()
    extractor = build_extractor(module, device="cpu")
    before = extractor(images()).features
    assert module.training and module.weight.requires_grad
    with torch.no_grad():
        module.weight.zero_()
    assert torch.equal(extractor(images()).features, before)


def test_the_digest_of_a_module_tells_weights_and_classes_apart():
    class Other(Projection):
        pass

    modules = [Projection(), Projection(), Projection(seed=1), Other()]
    digests = [build_extractor(module, device="cpu").digest for module in modules]
    assert digests[0] == digests[1] and len(set(digests)) == 3
    extractor = build_extractor(modules[0], device="cpu")
    assert extractor.name == f"module_{digests[0][:8]}" and not extractor.is_cacheable


def test_a_module_without_or_with_a_wrong_dimension_is_refused():
    assert refusal(torch.nn.Flatten()).startswith("features is 'Flatten': give the module an attribute num_features")
    module = Projection()
    module.num_features = 5
    with pytest.raises(ValueError, match=r"returned the shape \(7, 6\) and not \(7, 5\)"):
        build_extractor(module, device="cpu")(images())
    module.rest = torch.nn.LSTM(6, 6)  # which returns a tuple
    with pytest.raises(ValueError, match=r"returned the shape \(\) and not \(7, 5\)"):
        build_extractor(module, device="cpu")(images())


def test_the_frechet_distance_of_a_module_equals_torchmetrics():
    samples, references = images(200, seed=1), images(150, seed=2) // 2
    module = Projection().eval()
    theirs = FrechetInceptionDistance(feature=module)
    theirs.update(references, real=True)
    theirs.update(samples, real=False)
    extractor, statistics = build_extractor(module, device="cpu"), []
    for batch in (samples, references):
        statistics.append(RunningStatistics(extractor.dim))
        for found in map(extractor, batch.split(64)):
            statistics[-1].update(found.features)
    ours = frechet_distance(statistics[0].result(), statistics[1].result())
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-4)
    assert ours > 1
