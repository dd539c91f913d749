r"""Edit images with a saved pipeline; `hf-ddpm edit EDIT --help` lists the options of an edit.

    hf-ddpm edit image_to_image --model runs/digits/pipeline --images a.png \
        --strength 0.4 --output_dir edits
    hf-ddpm edit inpaint --model runs/digits/pipeline --images folder \
        --mask mask.png --output_dir painted
    hf-ddpm edit interpolate --model runs/digits/pipeline --class_labels 3 \
        --output_dir between
"""

import os
import sys
from pathlib import Path

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.commandline.commands import as_typed
from hf_ddpm.commandline.forms import check_form, form_list
from hf_ddpm.commandline.help import wrap_prose
from hf_ddpm.editing.inputs import check_mask, find_images
from hf_ddpm.editing.options import EDITS, InpaintConfig
from hf_ddpm.first_checks import check_class_labels, check_model, check_scheduler
from hf_ddpm.runtime.libraries import load_libraries


def main(args: list[str] | None = None) -> None:
    words = sys.argv[1:] if args is None else args
    name = words[0] if words else None
    with user_errors():
        if name in ("-h", "--help"):
            print(wrap_prose(as_typed(f"{__doc__.strip()}\n\nEdits:\n{form_list(EDITS)}")))
            return
        config_class = EDITS[check_form(name, EDITS, "edit")]
    config = parse_config(config_class, words[1:])
    with user_errors(config_class):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("images are edited in one process: leave the launcher out")
        check_model(config.model)
        if config.scheduler is not None:
            check_scheduler(config.scheduler)
        check_class_labels(config.model, config.class_labels or ())
        find_images(getattr(config, "images", None) or ())
        if isinstance(config, InpaintConfig):
            check_mask(Path(config.mask))
        load_libraries()
        from hf_ddpm.editing.edit_folder import edit_to_folder

        count = edit_to_folder(config)
        print(f"{count} images: {config.output_dir}, grid: {config.grid}")
