"""Evaluate a model at intervals during training: `train(config, Monitor(config.evaluation, config.data))`.

With a data set of the program, `train(config, Monitor(config.evaluation, config.data, dataset=mine), dataset=mine)`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hf_ddpm.config import BaseMonitorConfig, MonitorConfig
from hf_ddpm.data.options import SplitsConfig
from hf_ddpm.evaluation.features import build_extractor
from hf_ddpm.evaluation.options import ProtocolConfig, ReferenceDataConfig, SamplingConfig
from hf_ddpm.evaluation.protocol import Measurement, open_references
from hf_ddpm.first_checks import check_scheduler
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.runtime.signals import StopRequest
from hf_ddpm.schedulers import build_scheduler, fitting_steps


class Monitor:
    """Scores a pipeline against the train split, always with the same seeds; wrong options are refused at construction."""

    def __init__(self, config: BaseMonitorConfig, data: SplitsConfig, num_threads: int | None = None, dataset: Any = None):
        """Take options with `features` set and those of the training data; a `ValueError` for wrong ones, or a weak judge.

        `num_threads` are CPU threads per process; None = its share of the cores. `dataset` is the one that `train` gets;
        None = the images are those of the options.
        """
        self.dataset = dataset
        assert config.features is not None, "config.every_steps is given, and features with it"
        self._config, self._features = config, config.features
        self._measurement: Measurement | None = None
        self._processes = init_distributed(num_threads)
        if isinstance(config, MonitorConfig):
            check_scheduler(config.scheduler)
        accuracy, device = config.min_judge_accuracy, self._processes.device
        self._extractor = build_extractor(self._features, device=device, min_judge_accuracy=accuracy)
        known = asdict(ReferenceDataConfig()).keys()
        self._data = ReferenceDataConfig(**{name: value for name, value in asdict(data).items() if name in known})

    def __call__(self, pipeline: CFGDDPMPipeline) -> dict[str, float]:
        """Metrics of images sampled with the EMA weights; every process must call it."""
        config = self._config
        if self._measurement is None:
            protocol = ProtocolConfig(features=self._features, num_images=config.num_images, num_seeds=1)
            references = open_references(protocol, self._data, pipeline, self._extractor, self._processes, self.dataset)
            self._measurement = Measurement(config=protocol, references=references, stop=StopRequest())
        if not isinstance(config, MonitorConfig):  # a distilled model samples in one way
            return self._measurement.score_seed(pipeline, SamplingConfig(), 0).metrics
        sampler = build_scheduler(config.scheduler, pipeline.scheduler.config)
        sampled = CFGDDPMPipeline(pipeline.unet, sampler, **pipeline.facts)
        steps = fitting_steps(sampler, config.num_inference_steps)
        sampling = SamplingConfig(num_inference_steps=steps, guidance_scale=config.guidance_scale)
        return self._measurement.score_seed(sampled, sampling, 0).metrics
