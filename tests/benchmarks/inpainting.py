"""How often a judge reads the digit in images of which a half was inpainted.

    python tests/benchmarks/inpainting.py --model runs/mnist_cpu/pipeline --judge runs/judge_mnist --num_threads 1

Prints a row of a Markdown table for each half, with the class given to the model and without it: the share of the inpainted
test images in which the judge reads the class of the image, its standard error, and the number of known pixels that changed,
which must be 0. The first line has the share for the images themselves, the last one for noise in the place of the half.
"""

import argparse
import math
import time

import numpy as np
import torch
from measuring import print_machine, print_table

from hf_ddpm.data.table import load_images
from hf_ddpm.diffusion.randomness import image_generator
from hf_ddpm.figures.edits import region_mask
from hf_ddpm.figures.samples import load_editing_pipeline
from hf_ddpm.models.judge import load_judge

HALVES = ("left", "right", "top", "bottom")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a pipeline or checkpoint")
    parser.add_argument("--judge", required=True, help="folder of a judge of the same data")
    parser.add_argument("--source", default="ylecun/mnist")
    parser.add_argument("--split", default="test")
    parser.add_argument("--scheduler", choices=("ddpm", "ddim"), help="default: the one saved with the model")
    parser.add_argument("--num_images", type=int, default=100, help="the first of the split")
    parser.add_argument("--num_inference_steps", type=int, default=50)
    parser.add_argument("--jump_length", type=int, default=10)
    parser.add_argument("--jump_n_sample", type=int, default=5)
    parser.add_argument("--guidance_scale", type=float, default=1.5, help="s, with the class")
    parser.add_argument("--halves", nargs="+", choices=HALVES, default=list(HALVES))
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_threads", type=int, help="threads of torch; default: chosen by torch")
    options = parser.parse_args()
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)

    pipeline, judge = load_editing_pipeline(options.model, scheduler=options.scheduler), load_judge(options.judge)
    table = load_images(options.source, options.split, image_size=judge.record.image_size)
    indices = torch.arange(options.num_images)
    images, labels = table.images(indices).permute(0, 2, 3, 1).numpy(), table.class_labels[indices]
    steps = {name: getattr(options, name) for name in ("num_inference_steps", "jump_length", "jump_n_sample")}
    print_machine(f"{options.num_images} images", *(f"{name} {value}" for name, value in steps.items()))

    def paint(mask: np.ndarray, given: bool) -> np.ndarray:
        """The images with the masked pixels inpainted, (N, H, W, C) uint8."""
        painted = []
        for first in range(0, len(images), options.batch_size):
            part = slice(first, first + options.batch_size)
            of_class = {"class_labels": labels[part].tolist(), "guidance_scale": options.guidance_scale}
            generators = [image_generator(options.seed + first + i) for i in range(len(images[part]))]
            more = {**steps, **(of_class if given else {}), "generator": generators, "output_type": "np"}
            painted.append((pipeline.inpaint(images[part], mask, **more).images * 255).round().astype(np.uint8))
        return np.concatenate(painted)

    def row(half: str, given: str, found: np.ndarray, changed: int, seconds: float) -> list[str]:
        share = float((judge(torch.from_numpy(found).permute(0, 3, 1, 2)).logits.argmax(dim=1) == labels).double().mean())
        error = math.sqrt(share * (1 - share) / len(labels))
        return [half, given, f"{share:.1%}", f"{error:.1%}", str(changed), f"{seconds:.0f}"]

    rows = [row("none", "", images, 0, 0)]
    for half in options.halves:
        mask = region_mask(half, images.shape[1:3])
        for given in (True, False):
            started = time.perf_counter()
            found = paint(mask, given)
            changed = int((found != images)[:, ~mask].sum())
            name = f"given, s = {options.guidance_scale:g}" if given else "not given"
            rows.append(row(half, name, found, changed, time.perf_counter() - started))
    noise = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    is_noise = region_mask(options.halves[0], images.shape[1:3])[:, :, None]
    rows.append(row(f"{options.halves[0]}, as noise", "", np.where(is_noise, noise, images), 0, 0))
    print_table(["half", "class", "read by the judge", "standard error", "known pixels changed", "seconds"], rows)


if __name__ == "__main__":
    main()
