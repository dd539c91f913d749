"""Plot a figure as PNG and PDF, or an animation as GIF; `hf-ddpm figures FIGURE --help` lists its options.

hf-ddpm figures real --data.source digits --output figures/real
hf-ddpm figures reverse --model runs/digits/pipeline --output figures/reverse
"""

import sys

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.commandline.forms import check_form, form_list
from hf_ddpm.commandline.help import wrap_prose
from hf_ddpm.figures.registry import FIGURES, plot_figure
from hf_ddpm.first_checks import check_model
from hf_ddpm.runtime.libraries import load_libraries
from hf_ddpm.runtime.progress import Progress

FORMS = {name: config_class for name, (config_class, _) in FIGURES.items()}


def main(args: list[str] | None = None) -> None:
    words = sys.argv[1:] if args is None else args
    name = words[0] if words else None
    with user_errors():
        if name in ("-h", "--help"):
            print(wrap_prose(as_typed(f"{__doc__.strip()}\n\nFigures:\n{form_list(FORMS)}")))
            return
        config_class, _ = FIGURES[check_form(name, FORMS, "figure")]
    config = parse_config(config_class, words[1:])
    with user_errors(config_class):
        model = getattr(config, "model", None)
        if model is not None:
            check_model(model)
            load_libraries()
        with Progress(f"plotting {name}"):
            paths = plot_figure(config)
        print(f"{name}: {', '.join(map(str, paths))}")
