"""Seconds and memory of features and metrics, without sampling: real test images are used instead of samples.

python tests/benchmarks/evaluation_speed.py --source ylecun/mnist --judge runs/judge_mnist --num_images 10000
"""

import argparse
import resource
import time

import torch
from accelerate import PartialState
from measuring import print_machine

from hf_ddpm.data.table import load_images
from hf_ddpm.evaluation.features import build_extractor
from hf_ddpm.evaluation.reference_cache import reference_summary
from hf_ddpm.evaluation.references import References
from hf_ddpm.markdown import counted
from hf_ddpm.models.judge import load_judge
from hf_ddpm.runtime.distributed import init_distributed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="ylecun/mnist", help="data set on the Hub, or a folder")
    parser.add_argument("--judge", required=True, help="folder of its judge")
    parser.add_argument("--num_images", type=int, default=10_000, help="at most as many as the test split has")
    parser.add_argument("--num_threads", type=int, help="None = all cores")
    arguments = parser.parse_args()

    init_distributed(arguments.num_threads)
    print_machine(counted(torch.get_num_threads(), "thread"))
    extractor = build_extractor(f"judge:{arguments.judge}", min_judge_accuracy=None)
    size = load_judge(arguments.judge).record.image_size
    train, test = (load_images(arguments.source, split, image_size=size) for split in ("train", "test"))
    started = time.perf_counter()
    summary = reference_summary(extractor, train, batch_size=256, progress=True)
    print(f"features of the {len(train):,} references (0 where they are kept): {time.perf_counter() - started:.1f} s")
    references = References(
        extractor=extractor, train=train, test=test, reference_split="train", summary=summary, batch_size=256,
        processes=PartialState(),
    )  # fmt: skip
    before, started = _peak(), time.perf_counter()
    floor = references.floor(arguments.num_images)
    seconds = time.perf_counter() - started
    memory = (_peak() - before) / 1024
    print(f"features and metrics of {floor.num_images:,} images: {seconds:.1f} s, {memory:.0f} MiB more at the peak")
    print({name: round(value, 4) for name, value in floor.metrics.items()})


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB


if __name__ == "__main__":
    main()
