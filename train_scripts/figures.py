"""Plot a figure as PNG and PDF, or an animation as GIF; `figures.py FIGURE --help` lists its options.

python train_scripts/figures.py real --data.source digits --output figures/real
python train_scripts/figures.py reverse --model runs/digits/pipeline --output figures/reverse
"""

import sys

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.commandline.forms import check_form, form_list
from hf_ddpm.commandline.help import wrap_prose
from hf_ddpm.figures.registry import FIGURES, plot_figure
from hf_ddpm.first_checks import check_model
from hf_ddpm.runtime.libraries import load_libraries
from hf_ddpm.runtime.progress import Progress

FORMS = {name: config_class for name, (config_class, _) in FIGURES.items()}


def main(args: list[str] | None = None) -> None:
    name, *options = (sys.argv[1:] if args is None else args) or [None]
    with user_errors():
        if name in ("-h", "--help"):
            print(wrap_prose(f"{__doc__.strip()}\n\nFigures:\n{form_list(FORMS)}"))
            return
        config_class, _ = FIGURES[check_form(name, FORMS, "figure")]
    config = parse_config(config_class, options)
    with user_errors(config_class):
        if getattr(config, "model", None) is not None:
            check_model(config.model)
            load_libraries()
        with Progress(f"plotting {name}"):
            paths = plot_figure(config)
        print(f"{name}: {', '.join(map(str, paths))}")


if __name__ == "__main__":
    main()
