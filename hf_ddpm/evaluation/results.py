"""What a measurement leaves: means with standard errors, floor, ceiling, and all that is needed to repeat it."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hf_ddpm.config import DataConfig
from hf_ddpm.evaluation.options import EvaluationConfig, ProtocolConfig
from hf_ddpm.evaluation.references import References, nearest_positions
from hf_ddpm.runtime.environment import describe_environment
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.sampling import ImagePipeline, network_of

LOSS_IMAGES = 512
"""Images of each split that the denoising loss is computed on."""


@dataclass(kw_only=True)
class SeedScores:
    """What the images of one seed score."""

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    seconds: dict[str, float]
    """Of drawing the images, of their features, and of the metrics."""


def assemble(config: ProtocolConfig, references: References, scores: list[SeedScores]) -> dict[str, Any]:
    """Means and standard errors over the seeds, beside floor and ceiling; every process has to call it."""
    rename = _names(references, config.num_images)
    names = scores[0].metrics
    floor, ceiling = references.floor(config.num_images), references.ceiling(config.num_images)
    classes = scores[0].per_class
    # In the proportions of the train split every class has its own number.
    class_images = config.num_images // max(1, len(classes)) if config.class_prior == "balanced" else None
    results = {
        "metrics": {
            rename(name): _mean([score.metrics[name] for score in scores], _images_of(name, config, references))
            for name in names
        },
        "floor": {} if floor is None else {rename(name): value for name, value in floor[0].items()},
        "ceiling": {rename(name): value for name, value in ceiling[0].items()},
        "per_class": {
            label: {
                name: {
                    **_mean([score.per_class[label][name] for score in scores], class_images),
                    "floor": None if floor is None else floor[1].get(label, {}).get(name),
                }
                for name in classes[label]
            }
            for label in classes
        },
        "notes": _notes(config, references, floor),
        "protocol": {
            "floor_num_images": None if floor is None else floor[2],
            "seconds": {name: round(sum(score.seconds.get(name, 0) for score in scores), 1) for name in scores[0].seconds},
        },
    }
    return results


def describe(config: EvaluationConfig, data: DataConfig, pipeline: ImagePipeline, references: References) -> dict[str, Any]:
    """Everything that is needed to measure the same again."""
    surroundings = describe_environment(pipeline.device, references.processes.num_processes)
    extractor, sampling = references.extractor, config.sampling
    denoising = {}  # of a GAN
    if hasattr(pipeline, "scheduler"):
        denoising = {
            "scheduler": type(pipeline.scheduler).__name__,
            "num_inference_steps": sampling.num_inference_steps,
            "guidance_scale": sampling.scale_for(pipeline.null_label),
            "eta": sampling.eta,
        }
    return {
        "command": command_line(surroundings["command"], references.processes.num_processes),
        "model": config.model,
        "model_sha256": weights_digest(pipeline),
        "seeds": [config.seed + number for number in range(config.num_seeds)],
        "num_images": config.num_images,
        "class_prior": config.class_prior if references.train.class_names and pipeline.is_conditional else None,
        **denoising,
        "dtype": sampling.dtype,
        "features": extractor.name,
        "features_from": config.features,
        "features_sha256": extractor.digest,
        "preprocessing": extractor.preprocessing,
        "data_source": data.source,
        "data_labels": data.labels,
        "reference_split": config.reference_split,
        "reference_images": references.summary.num_images,
        "reference_fingerprint": (references.train if config.reference_split == "train" else references.test).fingerprint,
        **{name: surroundings[name] for name in ("commit", "python", "packages", "processor", "device", "gpu")},
        "num_processes": surroundings["num_processes"],
        "num_threads": surroundings["num_threads"],
    }


def weights_digest(pipeline: ImagePipeline) -> str:
    """sha256 (hex) of the network's weights, names and numbers: equal for equal weights, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network_of(pipeline).state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class KeptSeeds:
    """The scores of finished seeds, beside the output, for the next start of the same measurement."""

    def __init__(self, output: Path, key: dict[str, Any]):
        self._path, self._key = output.with_name(f".{output.stem}.partial.json"), key

    def read(self) -> list[SeedScores]:
        """Scores of the seeds in their order; none if another measurement left them."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if kept["key"] != json.loads(json.dumps(self._key)):
                return []
            return [SeedScores(**scores) for scores in kept["scores"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError):
            print(f"warning: {self._path} is damaged, its seeds are measured again", file=sys.stderr)
            return []

    def write(self, scores: list[SeedScores]) -> None:
        """Keep what has been measured so far."""
        content = {"key": self._key, "scores": [asdict(score) for score in scores]}
        write_whole(self._path, json.dumps(content) + "\n")

    def forget(self) -> None:
        """Remove the file: all is done."""
        self._path.unlink(missing_ok=True)


def _notes(config: ProtocolConfig, references: References, floor: tuple | None) -> list[str]:
    """What a reader has to know about the figures."""
    notes, dim = [], references.extractor.dim
    smallest = min(config.num_images, references.summary.num_images)
    if smallest <= dim:
        notes.append(
            f"{references.distance_name}: {smallest} images do not fill {dim} dimensions, so the distance is far above "
            "that of many images; compare it with those of equally many only"
        )
    if floor is None:
        notes.append("there is no floor: the data have no other split of at least 6 images")
    elif floor[2] < config.num_images:
        other = "test" if references.reference_split == "train" else "train"
        notes.append(f"the floor is that of the {floor[2]} images of the {other} split, and not of {config.num_images}")
    return notes


def _names(references: References, num_images: int) -> Callable[[str], str]:
    count = f"{num_images // 1000}k" if num_images % 1000 == 0 else str(num_images)
    fid = f"fid{count}_{references.reference_split}"
    return lambda name: fid if name == "fid" else name


def _images_of(name: str, config: ProtocolConfig, references: References) -> int:
    """Images that one value of a metric comes from."""
    if name.startswith("simple_loss"):
        return min(LOSS_IMAGES, len(references.train if name.endswith("train") else references.test))
    if name.startswith("bits_per_dim"):
        return config.bits_per_dim_images
    return len(nearest_positions(config.num_images)) if name.startswith("nearest") else config.num_images


def _mean(values: list[float], num_images: int | None) -> dict[str, Any]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "stderr": error, "n": num_images, "values": values}


def command_line(arguments: list[str], num_processes: int) -> str:
    """A command as it is typed, with what starts so many processes."""
    launcher = "python" if num_processes == 1 else f"torchrun --nproc_per_node {num_processes}"
    return f"{launcher} {shlex.join(arguments)}"


def kept_key(config: EvaluationConfig, pipeline: ImagePipeline, references: References) -> dict[str, Any]:
    """What the score of a seed depends on; the number of seeds and where the output goes are not of it."""
    options = {name: value for name, value in asdict(config).items() if name not in ("num_seeds", "output", "num_threads")}
    options["sampling"] = {name: value for name, value in options["sampling"].items() if name != "batch_size"}
    return {
        "options": json.loads(json.dumps(options, default=str)),
        "model": weights_digest(pipeline),
        "features": references.extractor.digest,
        "data": [references.train.fingerprint, references.test and references.test.fingerprint],
    }
