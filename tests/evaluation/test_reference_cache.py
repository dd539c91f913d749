"""The summary of reference images: one pass, cached without pickle, and never mistaken for another."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from hf_ddpm.data.table import ImageTable, load_images
from hf_ddpm.evaluation import reference_cache as reference
from hf_ddpm.evaluation.features import Extractor
from hf_ddpm.evaluation.reference_cache import reference_summary
from hf_ddpm.evaluation.summary import FeatureSummary
from hf_ddpm.runtime.distributed import init_distributed

ROOT = Path(__file__).parents[2]
DIM = 5
OPTIONS = {"batch_size": 64, "max_features": 40}


def make_extractor(**changes) -> Extractor:
    """Random features of 8 x 8 images, and predictions of the digits that are no better than chance."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, DIM + 10, generator=generator) / 64

    def network(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = images.flatten(1).float() @ weight
        return outputs[:, :DIM], outputs[:, DIM:]

    names = [str(digit) for digit in range(10)]
    extractor = Extractor(
        name="random",
        digest="0" * 64,
        preprocessing="flattened",
        dim=DIM,
        class_names=names,
        device=torch.device("cpu"),
        network=network,
    )
    return dataclasses.replace(extractor, **changes)


def idle(images: torch.Tensor):
    raise AssertionError("features were computed although they are cached")


@pytest.fixture
def table() -> ImageTable:
    return load_images("digits", "test", image_size=8)


@pytest.fixture
def kept(table, tmp_path) -> Path:
    """The file of a summary, in a cache of its own."""
    reference_summary(make_extractor(), table, cache_dir=tmp_path / "kept", **OPTIONS)
    (file,) = (tmp_path / "kept").iterdir()
    return file


def assert_same(found: FeatureSummary, expected: FeatureSummary) -> None:
    assert_same_arrays(found.to_arrays(), expected.to_arrays())


def assert_same_arrays(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    for name, array in expected.items():
        # Features of another batch size round in another way, in float32, and so do sums of them that are near 0 for what
        # was added up: what counts is the largest element.
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-6 * max(1, abs(array).max()), err_msg=name)


def whole(table: ImageTable) -> FeatureSummary:
    """Of all images in one batch."""
    summary = FeatureSummary(
        dim=DIM,
        total_images=table.num_images,
        max_features=OPTIONS["max_features"],
        class_names=table.class_names,
        predicted_class_names=make_extractor().class_names,
    )
    positions = torch.arange(table.num_images)
    summary.update(make_extractor()(table.images(positions)), table.class_labels, positions)
    return summary


def refusal(*args, **kwargs) -> str:
    with pytest.raises(ValueError) as caught:
        reference_summary(*args, **OPTIONS, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_summary_is_that_of_all_images_and_is_computed_once(table, tmp_path):
    first = reference_summary(make_extractor(), table, cache_dir=tmp_path, batch_size=7, max_features=40)
    assert_same(first, whole(table))
    assert first.num_images == table.num_images and 0 < first.accuracy < 0.5
    again = reference_summary(make_extractor(network=idle), table, cache_dir=tmp_path, **OPTIONS)
    for name, array in first.to_arrays().items():
        np.testing.assert_array_equal(again.to_arrays()[name], array)
    assert again.inception_score == first.inception_score and again.class_accuracy == first.class_accuracy
    assert again.class_statistics.keys() == first.class_statistics.keys() == set(range(10))


def test_it_is_cached_beside_the_hubs_files_without_pickle_and_with_the_mode_of_the_umask(table, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    before = os.umask(0o027)
    try:
        reference_summary(make_extractor(), table, **OPTIONS)
    finally:
        os.umask(before)
    (file,) = (tmp_path / "hf_ddpm" / "reference").iterdir()
    assert file.stat().st_mode & 0o777 == 0o640
    with np.load(file, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "iuf" for name in arrays.files)
        key = json.loads(arrays["key"].tobytes())
    assert key == reference.summary_key(make_extractor(), table, 40)


CHANGES = [
    {"name": "other"},
    {"digest": "1" * 64},
    {"preprocessing": "mirrored"},
    {"class_names": [*map(str, range(10)), "ten"]},
]


@pytest.mark.parametrize("change", CHANGES)
def test_another_extractor_computes_its_own_and_refuses_the_file_of_this_one(table, kept, change):
    other = make_extractor(**change)
    with pytest.raises(AssertionError, match="computed although"):
        reference_summary(dataclasses.replace(other, network=idle), table, cache_dir=kept.parent, **OPTIONS)
    message = refusal(other, table, reference_statistics=kept)
    assert message.startswith(f"reference_statistics is {str(kept)!r}: it was made with")


def test_other_images_or_counts_refuse_the_file(table, kept, tmp_path):
    fewer = load_images("digits", "test", image_size=8, max_images=20)
    assert "data_fingerprint" in refusal(make_extractor(), fewer, reference_statistics=kept)
    with pytest.raises(ValueError, match="max_features 40, not 41"):
        reference_summary(make_extractor(), table, batch_size=8, max_features=41, reference_statistics=kept)
    assert "it does not exist" in refusal(make_extractor(), table, reference_statistics=tmp_path / "no.npz")


def test_a_given_file_is_used_wherever_it_is(table, kept, tmp_path):
    moved = kept.rename(tmp_path / "mine.npz")
    options = {"cache_dir": tmp_path / "empty", "reference_statistics": moved}
    assert_same(reference_summary(make_extractor(network=idle), table, **options, **OPTIONS), whole(table))
    assert not (tmp_path / "empty").exists()


def test_a_file_of_another_format_version_is_not_used(table, kept, monkeypatch):
    monkeypatch.setattr(reference, "FORMAT", reference.FORMAT + 1)
    assert f"format {reference.FORMAT - 1}, not {reference.FORMAT}" in refusal(
        make_extractor(), table, reference_statistics=kept
    )
    reference_summary(make_extractor(), table, cache_dir=kept.parent, **OPTIONS)
    assert len(list(kept.parent.iterdir())) == 2


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def damage(content: bytes, kind: str, arrays: dict[str, np.ndarray], folder: Path) -> bytes:
    file = folder / "damaged.npz"
    if kind == "pickle":
        return pickle.dumps(Canary(folder / "executed"))
    if kind == "object":
        canary = np.empty(1, dtype=object)
        canary[0] = Canary(folder / "executed")
        np.savez(file, **{**arrays, "mean": canary})
    elif kind == "object_key":
        np.savez(file, **{**arrays, "key": np.array([Canary(folder / "executed")], dtype=object)})
    elif kind == "without_mean":
        np.savez(file, **{name: array for name, array in arrays.items() if name != "mean"})
    elif kind == "without_key":
        np.savez(file, **{name: array for name, array in arrays.items() if name != "key"})
    elif kind == "key_is_a_list":
        np.savez(file, **{**arrays, "key": np.frombuffer(b"[1]", dtype=np.uint8)})
    elif kind == "npy":
        np.save(file.with_suffix(".npy"), arrays["mean"])
        file = file.with_suffix(".npy")
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        return {
            "empty": b"",
            "text": b"nothing of the kind",
            "cut": content[:-30],
            "half": content[:middle],
            "bit": flipped,
        }[kind]
    return file.read_bytes()


KINDS = ["empty", "text", "cut", "half", "bit", "npy", "pickle", "object", "object_key"]


@pytest.mark.parametrize("kind", [*KINDS, "without_mean", "without_key", "key_is_a_list"])
def test_a_damaged_file_is_computed_again_or_refused_and_never_run(table, kept, tmp_path, caplog, kind):
    with np.load(kept) as file:
        arrays = {name: file[name] for name in file.files}
    whole_content = kept.read_bytes()
    kept.write_bytes(damage(whole_content, kind, arrays, tmp_path))
    message = refusal(make_extractor(), table, reference_statistics=kept)
    if kind == "key_is_a_list" or kind == "without_key":
        assert "key" in message
    assert message.startswith(f"reference_statistics is {str(kept)!r}: it is damaged")
    assert_same(reference_summary(make_extractor(), table, cache_dir=kept.parent, **OPTIONS), whole(table))
    assert "damaged" in caplog.text and not (tmp_path / "executed").exists()
    reference_summary(make_extractor(network=idle), table, cache_dir=kept.parent, **OPTIONS)


def test_a_file_under_the_name_of_another_is_computed_again(table, kept, caplog):
    other = make_extractor(digest="1" * 64)
    reference_summary(other, table, cache_dir=kept.parent, **OPTIONS)
    (other_file,) = set(kept.parent.iterdir()) - {kept}
    kept.replace(other_file)
    reference_summary(other, table, cache_dir=kept.parent, **OPTIONS)
    assert "it was made with features_sha256" in caplog.text
    reference_summary(dataclasses.replace(other, network=idle), table, cache_dir=kept.parent, **OPTIONS)


def test_modules_are_not_cached_and_a_folder_that_cannot_be_written_is_a_warning(table, tmp_path, caplog):
    reference_summary(make_extractor(is_cacheable=False), table, cache_dir=tmp_path / "cache", **OPTIONS)
    assert not (tmp_path / "cache").exists()
    (tmp_path / "file").touch()
    reference_summary(make_extractor(), table, cache_dir=tmp_path / "file", **OPTIONS)
    assert "cannot be cached" in caplog.text


def test_a_group_of_one_process_is_like_none(table, tmp_path):
    processes = init_distributed(num_threads=1)
    for extractor in (make_extractor(), make_extractor(network=idle)):
        assert_same(reference_summary(extractor, table, cache_dir=tmp_path, processes=processes, **OPTIONS), whole(table))
    assert "it does not exist" in refusal(make_extractor(), table, processes=processes, reference_statistics="missing.npz")


def test_images_without_labels_have_no_accuracy(tmp_path):
    table = load_images("digits", "test", image_size=8, class_conditional=False)
    summary = reference_summary(make_extractor(), table, cache_dir=tmp_path, **OPTIONS)
    again = reference_summary(make_extractor(network=idle), table, cache_dir=tmp_path, **OPTIONS)
    assert summary.accuracy is None and again.accuracy is None
    assert again.inception_score == summary.inception_score is not None


WORKER = """
import importlib.util, pathlib, sys

import datasets, numpy as np
from hf_ddpm.data.table import load_images
from hf_ddpm.evaluation.reference_cache import reference_summary
from hf_ddpm.runtime.distributed import init_distributed

test_file, folder = sys.argv[1], pathlib.Path(sys.argv[2])
datasets.config.HF_DATASETS_CACHE = folder / "datasets"
spec = importlib.util.spec_from_file_location("test_reference", test_file)
test = importlib.util.module_from_spec(spec)
spec.loader.exec_module(test)
processes = init_distributed(num_threads=1)
seen = []

def counting(images):
    seen.append(len(images))
    return test.make_extractor().network(images)

for name, batch_size in (("first", 16), ("again", 16)):
    summary = reference_summary(
        test.make_extractor(network=counting), load_images("digits", "test", image_size=8), batch_size=batch_size,
        max_features=40, cache_dir=folder / "cache", processes=processes,
    )
    np.savez(folder / f"{name}-{processes.process_index}.npz", images_computed=sum(seen), **summary.to_arrays())
try:
    reference_summary(
        test.make_extractor(), load_images("digits", "test", image_size=8), batch_size=8, processes=processes,
        reference_statistics="missing.npz",
    )
except ValueError as error:
    (folder / f"refusal-{processes.process_index}").write_text(str(error))
"""


@pytest.mark.slow
def test_two_processes_share_the_pass_and_get_what_one_gets(table, tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = [worker, __file__, tmp_path]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = whole(table)
    found = {}
    for name in ("first-0", "first-1", "again-0", "again-1"):
        with np.load(tmp_path / f"{name}.npz") as arrays:
            found[name] = {key: arrays[key] for key in arrays.files}
    for arrays in found.values():
        assert_same_arrays(arrays, expected.to_arrays())
        for name in expected.to_arrays():
            np.testing.assert_array_equal(arrays[name], found["first-0"][name])
    computed = [int(arrays["images_computed"]) for arrays in found.values()]
    assert computed[0] + computed[1] == table.num_images and abs(computed[0] - computed[1]) <= 1
    assert computed[2:] == computed[:2], "the second call reads what the first has kept"
    refusals = {(tmp_path / f"refusal-{rank}").read_text() for rank in range(2)}
    assert refusals == {"reference_statistics is 'missing.npz': it does not exist, leave it out to compute it"}
