r"""Write the model card of a saved pipeline again, as after a change of its run; a card edited by hand stays as it is.

    hf-ddpm write-card --model runs/digits/pipeline --license apache-2.0
    hf-ddpm write-card --model runs/digits/pipeline --output_dir shared --weights float16

With --output_dir, the card is written into a new folder to share, with the results of the run and its record, and with
--weights the model, too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.config import require
from hf_ddpm.first_checks import check_model
from hf_ddpm.hub.choices import CardChoices
from hf_ddpm.runtime.libraries import load_libraries
from hf_ddpm.runtime.lock import is_free

COMPARED_IMAGES = 100
"""Images of both weights that are compared, unless another number is given."""


@dataclass(kw_only=True)
class CardConfig(CardChoices):
    """Write the model card of a saved pipeline again."""

    model: Path
    """Folder of a saved pipeline; for the `pipeline/` of a run, the card describes that run, too."""
    output_dir: Path | None = None
    """New or empty folder to share, for the card and all that it is rendered from; None = the card is written into the
    folder of the model."""
    weights: Literal["float32", "float16"] | None = None
    """With --output_dir, the model is saved there, too, with weights of this type; None = the card alone. Weights of 16 bits
    take half the space, and are loaded in float32 like others."""
    compared_images: int | None = None
    """With --weights float16, images of both weights that are compared; None = 100."""

    def __post_init__(self) -> None:
        super().__post_init__()
        folder = self.output_dir
        require(folder is None or is_free(Path(folder)), "output_dir", str(folder), "give a new or an empty folder")
        self.require(self.weights is None or folder is not None, "weights", "give an --output_dir, or leave it out")
        fits = self.compared_images is None or self.weights == "float16"
        self.require(fits, "compared_images", "give --weights float16, or leave it out")
        self.require(self.compared_images is None or self.compared_images >= 1, "compared_images", "give at least 1")


def main(args: list[str] | None = None) -> None:
    config = parse_config(CardConfig, args, about=__doc__)
    with user_errors(CardConfig):
        from hf_ddpm.hub.card import find_run, write_card

        model = Path(config.model)
        if config.output_dir is None:
            if write_card(model, find_run(model), config):
                print(f"card: {model / 'README.md'}")
            return
        check_model(str(model))
        load_libraries()
        from hf_ddpm.hub.share import write_shared

        folder = Path(config.output_dir)
        count = (config.compared_images or COMPARED_IMAGES) if config.weights == "float16" else None
        write_shared(model, folder, weights=config.weights, choices=config, compared_images=count)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{folder}: {size / 1e6:.2f} MB; the card: {folder / 'README.md'}")
