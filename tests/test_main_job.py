"""The whole main job: the default recipe learns real digits, and a classifier reads its samples as the requested digits."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import export, open_browser, pictures_on, serve, wait_for
from reading_digits import flat_images, train_reader

from hf_ddpm.data.table import load_images
from hf_ddpm.sampling import generate, load_pipeline

SAMPLES_PER_CLASS = 50
RECIPE = Path(__file__).parents[1] / "train_scripts" / "recipes" / "digits.yaml"
# The cores of this machine, shared with the other test processes.
THREADS = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


@pytest.fixture(scope="module")
def pipeline_folder(load_script, tmp_path_factory) -> str:
    """The pipeline that `train.py` saves for the recipe of the README."""
    folder = tmp_path_factory.mktemp("main_job") / "digits"
    started = time.perf_counter()
    load_script("train").main(
        [f"--config={RECIPE}", f"--output_dir={folder}", f"--num_threads={THREADS}", "--mixed_precision=fp32"]
    )
    print(f"training took {time.perf_counter() - started:.0f} s")
    return str(folder / "pipeline")


def mean_class_spread(images: np.ndarray, labels: np.ndarray) -> float:
    """Root mean squared distance of an image to the mean of its class, averaged over the classes."""
    distances = [images[labels == label] - images[labels == label].mean(axis=0) for label in np.unique(labels)]
    return float(np.mean([np.sqrt((d**2).sum(axis=1).mean()) for d in distances]))


@pytest.fixture(scope="module")
def classifier():
    return train_reader()


def test_digits_are_learned(pipeline_folder, classifier):
    train = load_images("digits", "train", image_size=8)
    real, real_labels = flat_images(train), train.class_labels.numpy()
    labels = np.repeat(np.arange(10), SAMPLES_PER_CLASS)
    torch.set_num_threads(THREADS)
    pipeline = load_pipeline(pipeline_folder)
    batches = generate(pipeline, class_labels=labels.tolist(), batch_size=250, num_inference_steps=50, guidance_scale=1.5)
    samples = np.concatenate([batch.images for batch in batches]).reshape(-1, 64) / 255
    agreement = float((classifier.predict(samples) == labels).mean())
    spread = mean_class_spread(samples, labels) / mean_class_spread(real, real_labels)
    print(
        f"it agrees with {agreement:.1%} of {len(labels)} samples; their spread in a class is {spread:.2f} of the real one"
    )
    assert agreement >= 0.95
    assert spread >= 0.7


@pytest.mark.browser
def test_the_browser_shows_the_digit_that_is_chosen(pipeline_folder, classifier, tmp_path):
    """As the classifier reads it, and the same as in Python."""
    with open_browser() as browser:
        pipeline = load_pipeline(pipeline_folder, scheduler="dpmsolver++", device="cpu")
        export(load_pipeline(pipeline_folder, device="cpu"), tmp_path / "site", model=pipeline_folder)
        with serve(tmp_path / "site") as address:
            page = browser.new_page()
            page.goto(address)
            wait_for(page, "Done:")
            page.get_by_label("Class", exact=True).select_option("7")
            page.get_by_label("Images", exact=True).fill("9")
            page.get_by_role("button", name="Generate").click()
            wait_for(page, "Done: 9 images of 7")
            shown = pictures_on(page, "#clean", 9, 8, 8)[..., :1]
    options = {"num_inference_steps": 20, "guidance_scale": 1.5, "rng": "counter"}
    (batch,) = generate(pipeline, class_labels=[7] * 9, **options)
    assert abs(shown.astype(int) - batch.images).max() <= 2
    assert (classifier.predict(shown.reshape(9, 64) / 255) == 7).mean() > 0.8
