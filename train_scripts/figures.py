"""Draw a figure as PNG and PDF, or an animation as GIF; each figure has options of its own, see `figures.py FIGURE --help`.

python train_scripts/figures.py forward --data.source digits --output figures/forward
python train_scripts/figures.py reverse --model runs/digits/pipeline --output figures/reverse
python train_scripts/figures.py posterior --model runs/digits/pipeline --output figures/posterior
python train_scripts/figures.py reverse_gif --model runs/digits/pipeline --output figures/reverse
python train_scripts/figures.py training_gif --run runs/digits --output figures/training
python train_scripts/figures.py schedules --schedules '[linear, cosine, sigmoid]' --output figures/schedules
python train_scripts/figures.py losses --runs '[runs/digits]' --smoothing 5 --output figures/losses
python train_scripts/figures.py guided --model runs/digits/pipeline --guidance_scales '[1, 2, 4]' --output figures/guided
python train_scripts/figures.py real --data.source digits --output figures/real
python train_scripts/figures.py checkpoints --run runs/digits --output figures/checkpoints
"""

import sys

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.figures.options import FIGURES


def main(args: list[str] | None = None) -> None:
    name, *options = (sys.argv[1:] if args is None else args) or [None]
    if name in ("-h", "--help"):
        print(f"{__doc__.strip()}\n\nFigures: {', '.join(FIGURES)}")
        return
    with user_errors():
        if name not in FIGURES:
            got = "no figure is named" if name is None else f"there is no figure {name!r}"
            raise ValueError(f"{got}: give one of {', '.join(FIGURES)}, and its options after it")
    config = parse_config(FIGURES[name], options)
    with user_errors(FIGURES[name]):
        from hf_ddpm.figures.draw import draw_figure

        print(f"{name}: {', '.join(str(path) for path in draw_figure(config))}")


if __name__ == "__main__":
    main()
