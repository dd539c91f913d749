"""Publish a saved pipeline with its model card on the Hub, in one commit.

hf auth login
hf-ddpm push --model runs/digits/pipeline --repo_id OWNER/NAME
hf-ddpm push --model runs/digits/pipeline --repo_id OWNER/NAME --private --license apache-2.0
"""

from dataclasses import dataclass
from pathlib import Path

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.config import require
from hf_ddpm.hub.choices import CardChoices
from hf_ddpm.hub.facts import read_pipeline


@dataclass(kw_only=True)
class PushConfig(CardChoices):
    """Publish a saved pipeline with its model card on the Hub."""

    model: str
    """Folder of a saved pipeline; for the `pipeline/` of a run, the card is rendered again from that run."""
    repo_id: str
    """Repository on the Hub, as NAME or OWNER/NAME; created if needed."""
    private: bool | None = None
    """Whether a new repository is private; None = the account's default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.repo_id != "", "repo_id", self.repo_id, "give the repository as OWNER/NAME")


def main(args: list[str] | None = None) -> None:
    config = parse_config(PushConfig, args, about=__doc__)
    with user_errors():
        read_pipeline(Path(config.model))  # refuses a folder that is not a pipeline, before the imports below
        from hf_ddpm.hub.push import push_folder

        print(push_folder(config.model, config.repo_id, private=config.private, choices=config))
