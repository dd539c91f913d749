"""The models in model_cards/: small, with a card that names licenses and measurements, and drawing digits after a clone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import metadata_load
from PIL import Image
from reading_digits import train_reader

from hf_ddpm.hub.card import find_run
from hf_ddpm.hub.facts import read_pipeline
from hf_ddpm.hub.seal import is_rendered
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.sampling import generate, load_pipeline

ROOT = Path(__file__).parents[1]
CARDS = sorted(path.parent for path in (ROOT / "model_cards").glob("*/config.yaml"))
"""Folders of `hf-ddpm write-card --output_dir`."""
MODELS = {"digits": 2_000_000, "mnist4": 6_000_000}
"""The largest size of those with a model, in bytes."""


def test_the_folders_are_known():
    assert {folder.name for folder in CARDS if (folder / "model_index.json").exists()} == set(MODELS)


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_a_card_names_its_license_and_no_machine(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert is_rendered(text)
    assert metadata_load(folder / "README.md")["license"] == "apache-2.0"
    assert re.search(r"License: \S+", text)  # of the data
    assert "The files named here are beside this card." in text
    files = (path for path in folder.rglob("*") if path.suffix in (".md", ".json", ".yaml", ".jsonl"))
    assert not [path for path in files if re.search(r"(?<![\w.])/(work|home|root|tmp)/", path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_small_and_measured(name):
    folder = ROOT / "model_cards" / name
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= MODELS[name]
    facts = read_pipeline(folder)
    assert (facts.stored_dtype, facts.variant, facts.names_code) == ("float16", None, True)
    results = [json.loads(path.read_text()) for path in RunFolder(folder).results.glob("*.json")]
    measured = [metric for result in results for metric, value in result["metrics"].items() if value["stderr"] is not None]
    assert {"fd_judge", "precision", "recall", "class_accuracy"} <= set(measured)
    assert find_run(folder) == folder  # so that its card can be rendered again


@pytest.mark.parametrize("code", ["pipeline.py", "editing_pipeline.py"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_with_the_code_of_this_version(name, code):
    own, shipped = ROOT / "hf_ddpm" / code, ROOT / "model_cards" / name / code
    assert shipped.read_bytes() == own.read_bytes(), f"cp hf_ddpm/{code} model_cards/{name}/"


def test_the_digits_are_those_that_were_asked_for():
    labels = np.repeat(np.arange(10), 10)
    pipeline = load_pipeline(str(ROOT / "model_cards" / "digits"), scheduler="dpmsolver++", device="cpu")
    batches = generate(pipeline, class_labels=labels.tolist(), num_inference_steps=20, guidance_scale=1.5, batch_size=100)
    (batch,) = batches
    agreement = (train_reader().predict(batch.images.reshape(-1, 64) / 255) == labels).mean()
    assert agreement >= 0.95


def test_the_readme_draws_digits_after_a_clone(tmp_path):
    """Its first Python, in a process of its own, in a folder beside which nothing was trained."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    snippet = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)[0]
    assert "model_cards/digits" in snippet
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, check=True, capture_output=True)
    with Image.open(tmp_path / "three.png") as picture:
        assert picture.size == (8, 8) and np.asarray(picture).std() > 30
