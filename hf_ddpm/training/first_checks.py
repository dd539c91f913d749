"""What training programs check before they import torch: `check_training(config)`."""

from __future__ import annotations

import os
from pathlib import Path

from hf_ddpm.first_checks import check_features, check_model, check_scheduler, check_source, check_trackers
from hf_ddpm.run_folder import RunFolder
from hf_ddpm.runtime.libraries import few_collections
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.training.checkpoints import check_start
from hf_ddpm.training.distill_options import DistillConfig
from hf_ddpm.training.options import RunConfig, TrainConfig


def check_training(config: RunConfig) -> None:
    """Refuse options that name what does not exist, or a folder in use; every check is made again during the training."""
    check_trackers(config.logging.trackers)
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":  # otherwise the run is resumed
        check_start(RunFolder(Path(config.output_dir)), config.resume)
    if config.data.source is not None:
        check_source(config.data.source)
    if isinstance(config, DistillConfig):
        check_model(config.teacher, "teacher")
    if isinstance(config, TrainConfig | DistillConfig) and config.evaluation.features is not None:
        if isinstance(config, TrainConfig):
            check_scheduler(config.evaluation.scheduler)
        check_features(config.evaluation.features)
    if os.environ.get("WORLD_SIZE", "1") == "1" and not getattr(config.data, "streaming", False):
        with few_collections():
            from hf_ddpm.data.open_splits import open_early  # imports datasets, for which the mistakes above should not wait

        with Progress(f"opening {config.data.source}"):
            open_early(config.data)
