"""How well the samples of a model follow the sets of labels, or the numbers, that they are generated for.

    python tests/benchmarks/conditions.py --output_dir runs/conditions --num_threads 1

Gives scikit-learn's digits the labels even, large (5 to 9) and round (0, 6, 8, 9), and the mean of their pixels as a number,
trains a model of each with the options of the recipe `digits`, and generates a sample for the condition of each test image.
Prints a table for each model with one row per guidance scale s; the samples of s = 0 do not know what they were generated
for. Of labels: the share of samples of which an SVM, trained on the real digits, reads a digit with exactly this set of
labels, and the shares in which each label alone is right. Of numbers: the correlation of what was asked for with the mean of
the sample's pixels, and the mean distance of the two as a share of the range. A trained model that is there already is
measured again only.
"""

import argparse
import contextlib
import itertools
import sys
from pathlib import Path

import datasets
import numpy as np
from measuring import print_machine, print_table
from sklearn.svm import SVC

from hf_ddpm.cli import parse_config
from hf_ddpm.data.sources import open_splits
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sampling import generate, load_pipeline
from hf_ddpm.training.loop import train
from hf_ddpm.training.options import TrainConfig

LABELS = {"even": (0, 2, 4, 6, 8), "large": (5, 6, 7, 8, 9), "round": (0, 6, 8, 9)}
CONDITIONS = {
    "labels": ["--data.condition=labels"],
    "number": ["--data.condition=number", "--data.label_column=brightness"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the data and of the trainings")
    parser.add_argument("--scales", type=float, nargs="+", default=[0, 1, 1.5, 2], help="guidance scales s")
    parser.add_argument("--max_train_steps", type=int, default=1200)
    parser.add_argument("--num_inference_steps", type=int, default=50)
    parser.add_argument("--num_images", type=int, default=360, help="the first of the test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_threads", type=int, default=1)
    options = parser.parse_args()

    source = options.output_dir / "digits"
    splits = _labelled_digits(source)
    tests = splits["test"].select(range(options.num_images))
    reader = SVC(gamma=0.001).fit(_rows(splits["train"]["image"]), splits["train"]["label"])
    print_machine(f"{options.max_train_steps} training steps", f"{len(tests)} samples", f"seed {options.seed}")
    for condition in CONDITIONS:
        pipeline = _trained(condition, source, options)
        if condition == "labels":
            wanted = np.array([[has in labels for has in range(len(LABELS))] for labels in tests["tags"]])
            requests = tests["tags"][:]
            header = ["samples of", "all labels", *LABELS]
            rows = [["the test images themselves", *_shares(reader, _rows(tests["image"]), wanted)]]
        else:
            low, high = pipeline.condition_range
            requests = np.clip(tests["brightness"], low, high).tolist()
            header, rows = ["samples of", "correlation", "mean distance"], []
        for scale in options.scales:
            images = _sample(pipeline, requests, scale, options)
            measured = (
                _shares(reader, images * 16, wanted) if condition == "labels" else _agreement(images, requests, low, high)
            )
            rows.append([f"s = {scale:g}", *measured])
        print(f"\n{condition}:")
        print_table(header, rows)


def _labelled_digits(folder: Path) -> datasets.DatasetDict:
    """The digits with their labels and their brightness, also saved in a folder."""
    lists = datasets.List(datasets.ClassLabel(names=list(LABELS)))
    made = {}
    for name, split in open_splits("digits")[0].items():
        tags = [[place for place, digits in enumerate(LABELS.values()) if digit in digits] for digit in split["label"]]
        brightness = [float(np.mean(image) / 255) for image in split["image"]]
        made[name] = split.add_column("tags", tags, feature=lists).add_column("brightness", brightness)
    splits = datasets.DatasetDict(made)
    if not folder.exists():
        splits.save_to_disk(folder)
    return splits


def _trained(condition: str, source: Path, options: argparse.Namespace) -> CFGDDPMPipeline:
    folder = options.output_dir / condition
    if not (folder / "pipeline").exists():
        given = [f"--data.source={source}", f"--output_dir={folder}", f"--max_train_steps={options.max_train_steps}"]
        given += [f"--seed={options.seed}", f"--num_threads={options.num_threads}", "--mixed_precision=fp32"]
        with contextlib.redirect_stdout(sys.stderr):
            train(parse_config(TrainConfig, ["--config", "digits", *given, *CONDITIONS[condition]]))
    pipeline = load_pipeline(str(folder / "pipeline"))
    assert isinstance(pipeline, CFGDDPMPipeline)
    return pipeline


def _sample(pipeline: CFGDDPMPipeline, requests: list, scale: float, options: argparse.Namespace) -> np.ndarray:
    """One sample for each condition: (N, 64) pixels in [0, 1]."""
    settings = {"guidance_scale": scale, "num_inference_steps": options.num_inference_steps, "seed": options.seed}
    batches = generate(pipeline, class_labels=requests, batch_size=100, **settings)
    return np.concatenate([batch.images.reshape(len(batch.images), -1) for batch in batches]) / 255


def _rows(images: list) -> np.ndarray:
    """Digits as an SVM reads them: (N, 64) in [0, 16]."""
    return np.stack([np.asarray(image).reshape(-1) for image in images]) / 255 * 16


def _shares(reader: SVC, rows: np.ndarray, wanted: np.ndarray) -> list[str]:
    """Shares of images that have exactly the wanted labels, (N, K) bool, and in which each of them is right."""
    digits = reader.predict(rows)
    right = np.stack([np.isin(digits, group) for group in LABELS.values()], axis=1) == wanted
    return [f"{share:.1%}" for share in itertools.chain([right.all(axis=1).mean()], right.mean(axis=0))]


def _agreement(images: np.ndarray, requests: list[float], low: float, high: float) -> list[str]:
    """Correlation of the brightness of images with what was asked for, and their mean distance."""
    found = images.mean(axis=1)
    distance = np.abs(found - requests).mean() / (high - low)
    return [f"{np.corrcoef(found, requests)[0, 1]:.3f}", f"{distance:.1%}"]


if __name__ == "__main__":
    main()
