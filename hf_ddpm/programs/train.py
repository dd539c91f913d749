r"""Train a DDPM with classifier-free guidance and save it as a CFGDDPMPipeline.

    hf-ddpm train --config digits --output_dir runs/digits
    hf-ddpm train --config runs/digits/config.yaml --resume auto         # continue it
    hf-ddpm train --config mnist_cpu --data.source my/folder \
        --data.test_split null --data.channels 3 --output_dir runs/mine
    accelerate launch -m hf_ddpm train --config ...              # one GPU or several
    torchrun --nproc_per_node 2 -m hf_ddpm train --config ...    # several processes on a CPU
"""

from hf_ddpm.cli import parse_config, take_flag, user_errors
from hf_ddpm.runtime.libraries import load_libraries
from hf_ddpm.training.first_checks import check_training
from hf_ddpm.training.options import TrainConfig


def main(args: list[str] | None = None) -> None:
    wants_estimate, args = take_flag("estimate", args)
    config = parse_config(TrainConfig, args, about=__doc__)
    with user_errors(TrainConfig):
        check_training(config)
        load_libraries()
        from hf_ddpm.training.loop import train, training_task

        if wants_estimate:
            from hf_ddpm.training.estimate import estimate_training

            return estimate_training(config, training_task)

        evaluate = None
        if config.evaluation.every_steps is not None:
            from hf_ddpm.evaluation.monitor import Monitor

            evaluate = Monitor(config.evaluation, config.data, config.num_threads)
        train(config, evaluate)
