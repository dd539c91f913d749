"""Write the model card of a saved pipeline again, as after a change of its run; a card edited by hand stays as it is.

hf-ddpm write-card --model runs/digits/pipeline
"""

from dataclasses import dataclass
from pathlib import Path

from hf_ddpm.cli import parse_config, user_errors


@dataclass(kw_only=True)
class CardConfig:
    """Write the model card of a saved pipeline again."""

    model: Path
    """Folder of a saved pipeline; for the `pipeline/` of a run, the card describes that run, too."""


def main(args: list[str] | None = None) -> None:
    config = parse_config(CardConfig, args, about=__doc__)
    with user_errors():
        from hf_ddpm.hub.card import find_run, write_card

        model = Path(config.model)
        if write_card(model, find_run(model)):
            print(f"card: {model / 'README.md'}")
