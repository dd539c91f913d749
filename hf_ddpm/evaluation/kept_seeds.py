"""The scores of finished seeds, kept so that an evaluation which was stopped need not repeat them."""

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


@dataclass(kw_only=True)
class SeedScores:
    """What the images of one seed score."""

    metrics: dict[str, float]
    """By name."""
    per_class: dict[str, dict[str, float]]
    """Metrics of each class, by its name and theirs."""
    seconds: dict[str, float]
    """Spent on sampling the images, on their features, and on the metrics."""


class KeptSeeds:
    """The file beside the output in which the scores of finished seeds wait for the next start of the same evaluation."""

    def __init__(self, output: Path, key: dict[str, Any]):
        """
        Args:
            output: file of the results.
            key: what the scores depend on, JSON values; see `kept_key`.
        """
        self._path, self._key = output.with_name(f".{output.stem}.partial.json"), key

    def read(self) -> list[SeedScores]:
        """Scores of the seeds in their order; none if another evaluation left them."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if kept["key"] != json.loads(json.dumps(self._key)):
                return []
            return [SeedScores(**scores) for scores in kept["scores"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError):
            logger.warning("%s is damaged, its seeds are measured again", self._path)
            return []

    def write(self, scores: list[SeedScores]) -> None:
        """Keep what has been measured so far."""
        content = {"key": self._key, "scores": [asdict(score) for score in scores]}
        write_whole(self._path, json.dumps(content) + "\n")

    def forget(self) -> None:
        """Remove the file: all is done."""
        self._path.unlink(missing_ok=True)


def kept_key(config: EvaluationConfig, pipeline: ImagePipeline, references: References) -> dict[str, Any]:
    """What the scores of a seed depend on: neither on the number of seeds nor on where the output is written."""
    options = {name: value for name, value in asdict(config).items() if name not in ("num_seeds", "output", "num_threads")}
    options["sampling"] = {name: value for name, value in options["sampling"].items() if name != "batch_size"}
    return {
        "options": json.loads(json.dumps(options, default=str)),
        "model": weights_digest(network_of(pipeline)),
        "features": references.extractor.digest,
        "data": [references.train.fingerprint, references.test and references.test.fingerprint],
    }
