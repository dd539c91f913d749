"""Plot a figure as PNG and PDF, or an animation as GIF; each has its own options, see `figures.py FIGURE --help`.

python train_scripts/figures.py real --data.source digits --output figures/real
python train_scripts/figures.py reverse --model runs/digits/pipeline --output figures/reverse
"""

import sys

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.figures.registry import FIGURES, figure_list, plot_figure
from hf_ddpm.first_checks import check_model


def main(args: list[str] | None = None) -> None:
    name, *options = (sys.argv[1:] if args is None else args) or [None]
    if name in ("-h", "--help"):
        print(f"{__doc__.strip()}\n\nFigures:\n{figure_list()}")
        return
    with user_errors():
        if name not in FIGURES:
            got = "no figure is named" if name is None else f"unknown figure {name!r}"
            raise ValueError(f"{got}: give one of {', '.join(FIGURES)}, followed by its options")
    config_class, _ = FIGURES[name]
    config = parse_config(config_class, options)
    with user_errors(config_class):
        if getattr(config, "model", None) is not None:
            check_model(config.model)
        print(f"{name}: {', '.join(str(path) for path in plot_figure(config))}")


if __name__ == "__main__":
    main()
