"""Steps even in t against steps even in log sigma: distance of samples to those of many steps, per scheduler and number.

    python tests/benchmarks/step_spacing.py --model runs/mnist_fp32/pipeline --num_images 40 --num_threads 1

Prints a row of a Markdown table for each scheduler and number of steps: the root mean square over pixels, in [-1, 1], of
the difference to samples of the same noise by `--reference_steps` steps of dpmsolver++ even in log sigma. Both kinds of
steps solve the same differential equation, so the last line, the distance of as many steps even in t, is the error.
"""

import argparse

import numpy as np
import torch

from hf_ddpm.pipeline import LOG_SIGMA_FROM, CFGDDPMPipeline
from hf_ddpm.sampling import generate, load_pipeline
from hf_ddpm.schedulers import build_scheduler


def sample(pipeline: CFGDDPMPipeline, scheduler: str, log_sigma: bool, steps: int, num_images: int) -> np.ndarray:
    """Images in [-1, 1], (N, H, W, C), by steps even in log sigma or in t."""
    pipeline.scheduler = build_scheduler(scheduler, pipeline.trained_config)
    pipeline.scheduler.register_to_config(**{LOG_SIGMA_FROM: 1 if log_sigma else None})
    labels = [i % pipeline.num_classes for i in range(num_images)] if pipeline.is_conditional else [None] * num_images
    batches = generate(pipeline, class_labels=labels, num_inference_steps=steps, guidance_scale=1.0)
    return np.concatenate([batch.images for batch in batches]) / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a pipeline or checkpoint")
    parser.add_argument("--schedulers", nargs="+", default=["dpmsolver++", "unipc", "dpmsolver++_single", "deis"])
    parser.add_argument("--num_inference_steps", type=int, nargs="+", default=[5, 10, 15, 20])
    parser.add_argument("--reference_steps", type=int, default=150)
    parser.add_argument("--num_images", type=int, default=40)
    parser.add_argument("--num_threads", type=int, help="threads of torch; default: chosen by torch")
    arguments = parser.parse_args()
    if arguments.num_threads is not None:
        torch.set_num_threads(arguments.num_threads)

    pipeline = load_pipeline(arguments.model)
    reference = sample(pipeline, "dpmsolver++", True, arguments.reference_steps, arguments.num_images)

    def distance(scheduler: str, log_sigma: bool, steps: int) -> float:
        images = sample(pipeline, scheduler, log_sigma, steps, arguments.num_images)
        return float(np.sqrt(np.mean((images - reference) ** 2)))

    print("| scheduler | steps | even in t | even in log sigma |\n|---|---|---|---|")
    for scheduler in arguments.schedulers:
        for steps in arguments.num_inference_steps:
            in_t, in_log_sigma = (distance(scheduler, log_sigma, steps) for log_sigma in (False, True))
            print(f"| `{scheduler}` | {steps} | {in_t:.3f} | {in_log_sigma:.3f} |")
    apart = distance("dpmsolver++", False, arguments.reference_steps)
    print(f"\nThe references, {arguments.reference_steps} steps each, are {apart:.3f} apart.")


if __name__ == "__main__":
    main()
