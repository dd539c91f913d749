r"""Train a DDPM with classifier-free guidance and save it as a CFGDDPMPipeline.

    python train_scripts/train.py --config train_scripts/recipes/digits.yaml --output_dir runs/digits
    python train_scripts/train.py --config runs/digits/config.yaml --resume auto         # continue it
    python train_scripts/train.py --config train_scripts/recipes/mnist_cpu.yaml \
        --data.source my/folder --data.test_split null --data.channels 3 --output_dir runs/mine
    accelerate launch train_scripts/train.py --config ...              # one GPU or several
    torchrun --nproc_per_node 2 train_scripts/train.py --config ...    # several processes on a CPU
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


if __name__ == "__main__":
    main()
