"""Images per second of each scheduler at an equal distance to the truth, with the fewest steps that reach it.

    python tests/benchmarks/equal_distance.py --distance 0.02
    python tests/benchmarks/equal_distance.py --model runs/digits/pipeline --features judge:runs/judge_digits --distance 2

Without a model, steps are counted with the exact score of three distributions of pixels in [-1, 1]: their distance to the
truth (Wasserstein, the mean of the three) is that of the scheduler alone. What is timed is an untrained network. With a
model, it is the Frechet distance to the images that the model was trained on, as evaluate_model.py measures it. It scatters
for the schedulers that add noise (ddpm, euler_ancestral, kdpm2_ancestral), whose numbers of steps are rough.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from measuring import ROOT, images_per_second, print_machine, print_table

from hf_ddpm.cli import user_errors
from hf_ddpm.evaluation.features import build_extractor
from hf_ddpm.evaluation.options import EvaluationConfig, SamplingConfig
from hf_ddpm.evaluation.protocol import Measurement, data_options, generation_options, open_references
from hf_ddpm.markdown import counted
from hf_ddpm.models.unet import build_unet, unet_arguments
from hf_ddpm.pipeline import CFGDDPMPipeline, spaces_evenly
from hf_ddpm.runtime.distributed import init_distributed
from hf_ddpm.runtime.probe import time_in_turn
from hf_ddpm.runtime.progress import Progress
from hf_ddpm.runtime.signals import StopRequest
from hf_ddpm.sampling import generate, load_pipeline
from hf_ddpm.schedulers import SCHEDULERS, build_scheduler

STEPS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000)
"""Numbers of steps that are tried, up to `--max_steps`."""
Distance = Callable[[str, int], float]
"""The distance that a scheduler reaches in a number of steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distance", type=float, required=True, help="what each scheduler has to reach")
    parser.add_argument("--schedulers", nargs="+", default=list(SCHEDULERS), help="default: all")
    parser.add_argument("--max_steps", type=int, default=200, help="schedulers that need more are left out")
    parser.add_argument("--preset", default="mnist28", help="network that is timed without a model")
    parser.add_argument("--beta_schedule", default="squaredcos_cap_v2", help="without a model; also linear")
    parser.add_argument("--model", help="folder of a pipeline; default: the exact score")
    parser.add_argument("--features", help="of the distance of a model, such as judge:FOLDER")
    parser.add_argument("--num_images", type=int, default=500, help="behind the distance of a model")
    parser.add_argument("--batch_size", type=int, default=16, help="images that are timed")
    parser.add_argument("--rounds", type=int, default=3, help="slow schedulers are timed once")
    parser.add_argument("--num_threads", type=int, help="default: all cores")
    arguments = parser.parse_args()
    if (arguments.model is None) != (arguments.features is None):
        parser.error("--model and --features belong together: the distance of a model needs features")

    init_distributed(arguments.num_threads)
    batch, threads = f"batch {arguments.batch_size}", counted(torch.get_num_threads(), "thread")
    print_machine(arguments.model or f"exact score, {arguments.beta_schedule}, and {arguments.preset}", batch, threads)
    with user_errors():
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Count the steps of each scheduler, time them in turn, and print the table."""
    pipeline, distance = exact_score(arguments) if arguments.model is None else saved_model(arguments)
    samplers, rows = {}, {}
    with Progress("counting steps", len(arguments.schedulers), "scheduler") as bar:
        for name in arguments.schedulers:
            try:
                scheduler = build_scheduler(name, pipeline.trained_config)
            except ValueError as error:  # its library is not installed, or it does not suit the model
                print(f"left out: {error}")
                continue
            steps, reached = fewest_steps(scheduler, partial(distance, name), arguments)
            rows[name] = [f"`{name}`", str(steps or f"more than {arguments.max_steps}"), f"{reached:.3g}"]
            if steps is not None:
                samplers[name] = sampler(pipeline, name, steps, arguments.batch_size)
            bar.advance()
    timings = time_in_turn(samplers, seconds=math.inf, rounds=arguments.rounds) if samplers else None
    for name, row in rows.items():
        row.append(images_per_second(timings, name, arguments.batch_size) if name in samplers else "")
    print_table(["scheduler", f"steps to {arguments.distance:g}", "distance", "images/s"], list(rows.values()))


def fewest_steps(
    scheduler: SchedulerMixin, distance: Callable[[int], float], arguments: argparse.Namespace
) -> tuple[int | None, float]:
    """The fewest steps that reach the distance, None = none of those tried does; and the last distance."""
    reached, most = math.nan, min(arguments.max_steps, scheduler.config.num_train_timesteps)
    for steps in (steps for steps in STEPS if steps <= most and spaces_evenly(scheduler, steps)):
        reached = distance(steps)
        if reached <= arguments.distance:
            return steps, reached
    return None, reached


def exact_score(arguments: argparse.Namespace) -> tuple[CFGDDPMPipeline, Distance]:
    """A pipeline to time, and the distance that a scheduler reaches with the exact score."""
    sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "shared")]
    from test_exact_score import distances, sample, trained_as

    trained = trained_as(arguments.beta_schedule)
    pipeline = CFGDDPMPipeline(build_unet(unet_arguments(arguments.preset)).eval(), DDPMScheduler(**trained))

    def distance(scheduler: str, steps: int) -> float:
        built = build_scheduler(scheduler, pipeline.trained_config)
        return statistics.fmean(distances(sample(built, trained, steps)))

    return pipeline, distance


def saved_model(arguments: argparse.Namespace) -> tuple[CFGDDPMPipeline, Distance]:
    """A saved pipeline, and the distance of its samples to the images that it was trained on."""
    pipeline, processes = load_pipeline(arguments.model), init_distributed(arguments.num_threads)
    config = EvaluationConfig(
        model=arguments.model, features=arguments.features, num_images=arguments.num_images, output="not_written.json",
        min_judge_accuracy=None,
    )  # fmt: skip
    extractor = build_extractor(config.features, min_judge_accuracy=None)
    references = open_references(config, data_options(config.data, config.model), pipeline, extractor, processes)
    measurement = Measurement(config=config, references=references, stop=StopRequest())

    def distance(scheduler: str, steps: int) -> float:
        pipeline.scheduler = build_scheduler(scheduler, pipeline.trained_config)
        scores = measurement.score_seed(pipeline, SamplingConfig(num_inference_steps=steps), 0)
        return scores.metrics[references.distance_name]

    return pipeline, distance


def sampler(pipeline: CFGDDPMPipeline, scheduler: str, steps: int, batch_size: int) -> Callable[[], None]:
    """A function that samples one batch."""
    labels = [i % pipeline.num_classes for i in range(batch_size)] if pipeline.is_conditional else [None] * batch_size
    options = generation_options(pipeline, SamplingConfig(num_inference_steps=steps))

    def sample() -> None:
        pipeline.scheduler = build_scheduler(scheduler, pipeline.trained_config)
        list(generate(pipeline, class_labels=labels, batch_size=batch_size, **options))

    return sample


if __name__ == "__main__":
    main()
