"""How near an average made of snapshots comes to one that was kept while training, with snapshots in float32 and in float16.

    python tests/benchmarks/posthoc_average.py --config digits --data.batch_size 32 --max_train_steps 480 \
        --ema.snapshot_every_steps 15

The options are those of train.py. Errors are in percent of the distance between the averages of the lengths 0.05 and 0.1.
"""

import sys
import tempfile
from functools import partial
from unittest.mock import patch

import torch
from measuring import print_machine
from torch import Tensor

import hf_ddpm.training.loop as loop
from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.training.options import TrainConfig
from hf_ddpm.training.posthoc_average import combine
from hf_ddpm.training.power_average import TRACKED, PowerAverages

LENGTHS = (0.03, 0.05, 0.075, 0.1, 0.15, 0.2)


def main() -> None:
    snapshots: dict[int, dict[float, Tensor]] = {}

    def keep(averages: PowerAverages, folder: object, step: int, distance: int) -> None:
        tensors = averages.tensors()
        snapshots[step] = {
            length: torch.cat([it.flatten() for name, it in tensors.items() if name.startswith(f"{length}/")]).double()
            for length in LENGTHS
        }

    tracking = patch.multiple(loop, PowerAverages=partial(PowerAverages, lengths=LENGTHS), write_snapshot=keep)
    with tempfile.TemporaryDirectory() as folder, user_errors(), tracking:
        loop.train(parse_config(TrainConfig, [*sys.argv[1:], f"--output_dir={folder}/run"]))
    print_machine()
    end, steps = max(snapshots), sorted(snapshots)
    distance = (snapshots[end][0.05] - snapshots[end][0.1]).norm()
    for stride in (1, 2, 4):
        used = steps[stride - 1 :: stride]
        for length in LENGTHS:
            factors, wanted = combine(used, used[-1], length).factors, snapshots[used[-1]][length]
            errors = []
            for dtype in (torch.float32, torch.float16):
                made = torch.zeros_like(wanted)
                for step, row in zip(used, factors.tolist(), strict=True):
                    for tracked, factor in zip(TRACKED, row, strict=True):
                        made.add_(snapshots[step][tracked].to(dtype).double(), alpha=factor)
                errors.append(100 * ((made - wanted).norm() / distance).item())
            print(f"{len(used)} snapshots, length {length}: float32 {errors[0]:.2g} %, float16 {errors[1]:.2g} %")


if __name__ == "__main__":
    main()
