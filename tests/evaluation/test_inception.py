"""The Inception network: equal to torch-fidelity's through its own path, and no pickle is ever run."""

import hashlib
import io
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from huggingface_hub import constants
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from hf_ddpm.evaluation import inception
from hf_ddpm.evaluation.inception import load_inception
from hf_ddpm.metrics.frechet import RunningStatistics, frechet_distance
from hf_ddpm.metrics.kernel import kernel_distance
from hf_ddpm.metrics.precision_recall import precision_recall


class RandomInception(FeatureExtractorInceptionV3):
    """The network with seeded weights that keep the scale of what goes through it."""

    def __init__(self):
        empty = io.BytesIO()
        torch.save({}, empty)
        empty.seek(0)
        super().__init__("inception", ["2048"], feature_extractor_weights_path=empty)

    def load_state_dict(self, state_dict):
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Iterator[Path]:
    """Random weights as .pth and, under the same name, as .safetensors; in half precision, for less to write."""
    folder = tmp_path_factory.mktemp("inception")
    state = {name: value.half() for name, value in RandomInception().state_dict().items()}
    torch.save(state, folder / "random.pth")
    safetensors.torch.save_file(state, folder / "random.safetensors")
    yield folder / "random.pth"
    for file in folder.iterdir():
        file.unlink()


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hf_ddpm" / "inception"


class Images(Dataset):
    """Blurred noise of a given contrast, (3, 32, 32) uint8 each."""

    def __init__(self, count: int, seed: int, contrast: float):
        noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) - 0.5
        pixels = torch.nn.functional.interpolate(noise, (32, 32), mode="bilinear")
        self.images = (127.5 + 255 * contrast * pixels).round().clamp(0, 255).to(torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def compare_with_torch_fidelity(weights: Path, layer: str, count: int) -> None:
    samples, references = Images(count, 0, 0.9), Images(count, 1, 1.0)
    layers = {f"feature_layer_{metric}": layer for metric in ("fid", "kid", "prc")}
    options = dict(
        fid=True, kid=True, prc=True, kid_subsets=1, kid_subset_size=count, feature_extractor_weights_path=weights
    )
    options |= dict(feature_extractor="inception-v3-compat", cuda=False, cache=False, save_cpu_ram=True, verbose=False)
    theirs = calculate_metrics(input1=samples, input2=references, **options, **layers)

    network = inception._build_network(inception._read_weights(weights.with_suffix(".safetensors"))[0], [layer], weights)
    both = []
    for dataset in (samples, references):
        batches = [network(batch)[0] for batch in dataset.images.split(50)]
        both.append(torch.cat(batches).numpy())
    statistics = []
    for features in both:
        statistics.append(RunningStatistics(int(layer)))
        statistics[-1].update(features)
    distance = frechet_distance(statistics[0].result(), statistics[1].result())
    assert distance == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert distance > 0.01
    # What is left of means of kernels, 1.2 each, that theirs sums up in float32: the last digit of one is 1.2e-7.
    assert kernel_distance(*both) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4, abs=2e-6)
    assert precision_recall(*both) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-4)


def test_metrics_equal_torch_fidelity_through_its_own_path(weights):
    compare_with_torch_fidelity(weights, "64", 6)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["64", "192"])
def test_metrics_of_400_images_equal_torch_fidelity_through_its_own_path(weights, layer):
    compare_with_torch_fidelity(weights, layer, 400)


def test_features_and_logits_equal_torch_fidelity_for_both_formats(weights):
    layers = ["2048", "logits_unbiased"]
    theirs = FeatureExtractorInceptionV3("inception", layers, feature_extractor_weights_path=str(weights))
    images = Images(2, 0, 1.0).images
    features, logits = theirs(images)
    assert features.std() > 0.1
    for file, image, row in zip((weights, weights.with_suffix(".safetensors")), images, range(2), strict=True):
        torch.testing.assert_close(load_inception(file)(image[None]), (features[[row]], logits[[row]]))


def test_gray_images_equal_those_with_three_equal_channels(weights):
    network, images = load_inception(weights), Images(2, 0, 1.0).images
    torch.testing.assert_close(network(images[:, :1]), network(images[:, :1].repeat(1, 3, 1, 1)))
    assert not torch.allclose(network(images[:, :1])[0], network(images)[0])


def test_other_weights_are_named_after_the_sha256_of_their_file(weights):
    state = torch.get_rng_state()
    for file in (weights, weights.with_suffix(".safetensors")):
        network = load_inception(file)
        assert network.digest == hashlib.sha256(file.read_bytes()).hexdigest()
        assert network.name == f"inception_{network.digest[:8]}"
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(parameter.requires_grad or network.network.training for parameter in network.network.parameters())


# Files that are not what they should be


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refusal(weights: Path | None) -> str:
    with pytest.raises(ValueError) as caught:
        load_inception(weights)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("inception_weights is ")
    return message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("form", ["pickle", "torch", "torch_legacy", "state"])
def test_a_pickle_is_never_run(tmp_path, form, suffix):
    canary, file = Canary(tmp_path / "executed"), tmp_path / f"weights{suffix}"
    if form == "pickle":
        file.write_bytes(pickle.dumps(canary, protocol=2))
    else:
        content = {"fc.weight": torch.zeros(2), "fc.bias": canary} if form == "state" else canary
        torch.save(content, file, _use_new_zipfile_serialization=form != "torch_legacy")
    assert str(file) in refusal(file)
    assert not canary.path.exists()
    content = io.BytesIO(file.read_bytes())
    pickle.load(content) if form == "pickle" else torch.load(content, weights_only=False)
    assert canary.path.exists(), "the canary sings if it is run"


def test_files_without_the_networks_weights_are_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "missing.pth")
    (tmp_path / "weights.bin").touch()
    assert "give a .safetensors or a .pth" in refusal(tmp_path / "weights.bin")
    for content in ([torch.zeros(2)], {"epoch": 3, "fc.weight": torch.zeros(2)}):
        torch.save(content, tmp_path / "weights.pth")
        assert "not a state dict" in refusal(tmp_path / "weights.pth")
    safetensors.torch.save_file({"fc.weight": torch.zeros(2)}, tmp_path / "weights.safetensors")
    assert "not the weights of the network" in refusal(tmp_path / "weights.safetensors")
    for end in (0, 7, -1):
        (tmp_path / "short.pth").write_bytes((tmp_path / "weights.pth").read_bytes()[:end])
        assert "plain weights" in refusal(tmp_path / "short.pth")
        (tmp_path / "short.safetensors").write_bytes((tmp_path / "weights.safetensors").read_bytes()[:end])
        assert "not a safetensors" in refusal(tmp_path / "short.safetensors")


def test_without_torch_fidelity_the_message_says_what_to_install(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ValueError, match=r"pip install 'hf_ddpm\[fid\]'"):
        load_inception(weights)


# The published weights, here a small file that is published under a file:// address


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    file = tmp_path / "published.pth"
    torch.save({"b": torch.arange(6.0).view(2, 3), "a": torch.tensor(7)}, file)
    monkeypatch.setattr(inception, "URL", file.as_uri())
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    return file


def assert_published(found: tuple[dict[str, torch.Tensor], str]) -> None:
    state, digest = found
    assert digest == inception.SHA256
    assert torch.equal(state["b"], torch.arange(6.0).view(2, 3)) and torch.equal(state["a"], torch.tensor(7))


def test_published_weights_are_downloaded_once_and_cached(published, private_cache):
    before = os.umask(0o027)
    try:
        assert_published(inception._published_weights())
    finally:
        os.umask(before)
    published.unlink()
    assert_published(inception._published_weights())
    (kept,) = private_cache.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o640 and kept.name == published.name
    kept.write_bytes(kept.read_bytes()[:-1])
    assert "cannot be downloaded" in refusal(None)


@pytest.mark.parametrize("damage", ["value", "cut", "empty", "text", "pickle"])
def test_a_damaged_cached_file_is_downloaded_again(published, private_cache, tmp_path, caplog, damage):
    inception._published_weights()
    (kept,) = private_cache.iterdir()
    whole = kept.read_bytes()
    damaged = {
        "value": whole[:-1] + bytes([whole[-1] ^ 1]),
        "cut": whole[:-3],
        "empty": b"",
        "text": b"nothing of the kind",
        "pickle": pickle.dumps(Canary(tmp_path / "executed")),
    }
    kept.write_bytes(damaged[damage])
    assert_published(inception._published_weights())
    assert "damaged" in caplog.text and not (tmp_path / "executed").exists()
    caplog.clear()
    assert_published(inception._published_weights())
    assert not caplog.text


def test_the_published_file_is_cached_if_given_and_its_tensors_in_another_file_are_not_named_inception(
    published, private_cache
):
    assert_published(inception._read_weights(published))
    (kept,) = private_cache.iterdir()
    assert kept.read_bytes() == published.read_bytes()
    other = published.with_suffix(".safetensors")
    safetensors.torch.save_file(torch.load(published), other)
    state, digest = inception._read_weights(other)
    assert digest == hashlib.sha256(other.read_bytes()).hexdigest() != inception.SHA256
    assert state.keys() == {"a", "b"}


def test_only_the_published_bytes_are_named_inception(weights, monkeypatch):
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(weights.read_bytes()).hexdigest())
    assert load_inception(weights).name == "inception"
    assert load_inception(weights.with_suffix(".safetensors")).name != "inception"
    assert load_inception().name == "inception", "the one that was given is kept"


def test_a_download_must_have_the_published_hash(published, private_cache, tmp_path):
    canary = Canary(tmp_path / "executed")
    torch.save(canary, published)
    assert "sha256" in refusal(None) and not canary.path.exists() and not private_cache.exists()


def test_without_a_connection_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr(inception, "URL", "http://127.0.0.1:9/weights.pth")
    assert "give --inception_weights FILE" in refusal(None)


def test_a_cache_that_cannot_be_written_is_a_warning(published, private_cache, caplog):
    private_cache.parent.mkdir(parents=True)
    private_cache.touch()
    assert_published(inception._published_weights())
    assert "cannot be cached" in caplog.text
