r"""Find how a model samples best (guidance scale, interval and steps), and save that as its defaults.

    hf-ddpm judge --config judge_digits --seed 1 --output_dir runs/judge2
    hf-ddpm tune-guidance --model runs/digits/pipeline --features judge:runs/judge_digits \
        --heldout_features judge:runs/judge2 --output_dir runs/digits/results/tuning
    hf-ddpm tune-guidance ... --estimate       # only the network calls it will take
    hf-ddpm tune-guidance ... --grid.guidance cfg apg --min_recall 0.85
    torchrun --nproc_per_node 2 -m hf_ddpm tune-guidance ...    # they share the images

All candidates are measured with the same seeds, half of them with twice as many images, and so
on. The last one and the present defaults are compared by the other judge on the other split. An
interrupted tuning is continued by the same command.
"""

from hf_ddpm.cli import parse_config, take_flag, user_errors
from hf_ddpm.experiments.tuning_options import TuneConfig
from hf_ddpm.first_checks import check_features, check_measurement
from hf_ddpm.runtime.libraries import load_libraries


def main(args: list[str] | None = None) -> None:
    only_estimate, args = take_flag("estimate", args)
    config = parse_config(TuneConfig, args, about=__doc__)
    with user_errors(TuneConfig):
        schedulers, source = config.grid.scheduler or [], config.data.source
        check_measurement(model=config.model, features=config.features, schedulers=schedulers, source=source)
        check_features(config.heldout_features)
        load_libraries()
        from accelerate import PartialState

        from hf_ddpm.experiments.tuned_defaults import report_tuning
        from hf_ddpm.experiments.tuning import tune

        tuning = tune(config, only_estimate=only_estimate)
        if tuning is not None and PartialState().is_main_process:
            print(report_tuning(config, tuning))
