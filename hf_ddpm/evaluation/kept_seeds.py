"""The scores of finished seeds, kept so that an interrupted evaluation continues without repeating them."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_ddpm.evaluation.features import weights_digest
from hf_ddpm.evaluation.options import EvaluationConfig
from hf_ddpm.evaluation.references import References
from hf_ddpm.runtime.files import write_whole
from hf_ddpm.sampling import ImagePipeline, network_of

logger = logging.getLogger(__name__)

FORMAT = 2
"""Grows when a newer version of the package scores a seed differently."""


@dataclass(kw_only=True)
class SeedScores:
    """Scores of the images of one seed."""

    metrics: dict[str, float]
    """By name."""
    per_class: dict[str, dict[str, float]]
    """By class, then by metric."""
    seconds: dict[str, float]
    """Seconds spent on sampling, features and metrics."""


class KeptSeeds:
    """A file beside the output with the scores of finished seeds and their `kept_key`, for the next start."""

    def __init__(self, output: Path, key: dict[str, Any]):
        self._path, self._key = output.with_name(f".{output.stem}.partial.json"), key

    def read(self) -> list[SeedScores]:
        """Scores of the finished seeds in order; empty if the file is missing or of another evaluation."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if kept["key"] != json.loads(json.dumps(self._key)):
                return []
            return [SeedScores(**scores) for scores in kept["scores"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError):
            logger.warning("%s is damaged: its seeds are evaluated again", self._path)
            return []

    def write(self, scores: list[SeedScores]) -> None:
        """Keep the scores of the seeds finished so far."""
        content = {"key": self._key, "scores": [asdict(score) for score in scores]}
        write_whole(self._path, json.dumps(content) + "\n")

    def forget(self) -> None:
        """Remove the file when all seeds are done."""
        self._path.unlink(missing_ok=True)


def kept_key(config: EvaluationConfig, pipeline: ImagePipeline, references: References) -> dict[str, Any]:
    """Everything the scores of a seed depend on; the number of seeds and the output path are not part of it."""
    options = {name: value for name, value in asdict(config).items() if name not in ("num_seeds", "output", "num_threads")}
    options["sampling"] = {name: value for name, value in options["sampling"].items() if name != "batch_size"}
    defaults = getattr(pipeline, "sampling_defaults", None)
    return {
        **({"defaults": [type(pipeline.scheduler).__name__, defaults]} if defaults else {}),
        "format": FORMAT,
        "options": json.loads(json.dumps(options, default=str)),
        "model": weights_digest(network_of(pipeline)),
        "features": references.extractor.digest,
        "data": [references.train.fingerprint, references.test and references.test.fingerprint],
    }
