"""The files of generated images: PNG files that say what they are, and one npz."""

import numpy as np
from PIL import Image

from hf_ddpm.sample_folder import save_images, save_npz
from hf_ddpm.sampling import generate

NAMES = {0: "2", 1: "dog", 2: "great dane"}


def test_png_files_hold_the_images_and_say_what_they_are(tiny_pipeline, tmp_path):
    batches = generate(
        tiny_pipeline(names=NAMES.values()), class_labels=[0, 2, 1], seed=4, batch_size=2, num_inference_steps=2
    )
    images = [image for batch in save_images(batches, tmp_path, id2label=NAMES) for image in batch.images]
    names = ["00000_label-2_seed-4.png", "00001_label-great-dane_seed-5.png", "00002_label-dog_seed-6.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name, image in zip(names, images, strict=True):
        with Image.open(tmp_path / name) as file:
            np.testing.assert_array_equal(np.asarray(file), image[:, :, 0])


def test_class_names_become_safe_file_names(tiny_pipeline, tmp_path):
    batches = generate(tiny_pipeline(), class_labels=[0], num_inference_steps=1)
    list(save_images(batches, tmp_path, id2label={0: "../a/b: c?\n" + "x" * 300}))
    (name,) = (path.name for path in tmp_path.iterdir())
    assert name.startswith("00000_label--a-b-c-xxx")
    assert len(name) < 100


def test_npz_holds_everything_without_pickle(tiny_pipeline, tmp_path):
    pipeline = tiny_pipeline(channels=3)
    batches = list(generate(pipeline, class_labels=[2, 0, 1], seed=4, batch_size=2, num_inference_steps=2))
    images = np.concatenate([batch.images for batch in batches])
    save_npz(batches, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.npz"]
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["images"], images)
        assert saved["class_labels"].tolist() == [2, 0, 1]
        assert saved["seeds"].tolist() == [4, 5, 6]
        assert saved["images"].dtype == np.uint8


def test_npz_of_an_unconditional_model_has_labels_of_minus_one(tiny_pipeline, tmp_path):
    pipeline = tiny_pipeline(names=None)
    save_npz(list(generate(pipeline, class_labels=[None] * 2, num_inference_steps=1)), tmp_path)
    with np.load(tmp_path / "samples.npz") as saved:
        assert saved["class_labels"].tolist() == [-1, -1]
