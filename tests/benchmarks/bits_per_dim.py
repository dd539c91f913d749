"""Bits per dimension of held-out images, for a model and for its untrained network.

python tests/benchmarks/bits_per_dim.py --model runs/mnist_cpu/pipeline --num_images 48 --timesteps_per_image 60
"""

import argparse

import torch

from hf_ddpm.data.table import load_images
from hf_ddpm.heldout_metrics import bits_per_dim
from hf_ddpm.pipeline import CFGDDPMPipeline
from hf_ddpm.sampling import load_pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a pipeline or checkpoint")
    parser.add_argument("--source", default="ylecun/mnist", help="data set on the Hub, or a folder; its test split is used")
    parser.add_argument("--num_images", type=int, default=48)
    parser.add_argument("--timesteps_per_image", type=int, help="None = all")
    arguments = parser.parse_args()

    pipeline = load_pipeline(arguments.model)
    config = pipeline.unet.config
    images = load_images(arguments.source, "test", image_size=config.sample_size, channels=config.in_channels)
    torch.manual_seed(0)
    fresh = type(pipeline.unet).from_config(config).to(pipeline.device).eval()
    untrained = CFGDDPMPipeline(fresh, pipeline.scheduler, id2label=pipeline.id2label, null_label=pipeline.null_label)
    for name, model in (("untrained", untrained), (arguments.model, pipeline)):
        bits = bits_per_dim(
            model, images, num_images=arguments.num_images, timesteps_per_image=arguments.timesteps_per_image
        )
        parts = {part: f"{getattr(bits, part).mean:.3f}" for part in ("prior", "variational", "decoder")}
        print(f"{name}: {bits.total.mean:.3f} +- {bits.total.stderr:.3f} bits per dimension, {parts}")


if __name__ == "__main__":
    main()
