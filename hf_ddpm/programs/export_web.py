"""Export a model as a web page that runs it in the visitor's browser; the folder is a static Space of the Hub, too.

hf-ddpm export-web --model runs/digits/pipeline --output_dir site
python -m http.server --directory site
hf-ddpm export-web --model runs/digits/pipeline --output_dir site --hub.push_to_hub --hub.repo_id OWNER/NAME
"""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hf_ddpm.cli import parse_config, user_errors
from hf_ddpm.config import BaseConfig, HubConfig, require
from hf_ddpm.first_checks import check_model
from hf_ddpm.runtime.libraries import load_libraries
from hf_ddpm.runtime.lock import is_free

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(kw_only=True)
class SpaceConfig(HubConfig):
    """Publishing the page as a Space of the Hub."""

    push_to_hub: bool = False
    """Upload the folder to a static Space, in one commit."""


@dataclass(kw_only=True)
class ExportWebConfig(BaseConfig):
    """Export a model as a web page."""

    model: str
    """Folder of a pipeline (`pipeline/` of a run, or one of its checkpoints), or its id on the Hub."""
    output_dir: Path
    """New or empty folder for the page and all that it needs."""
    title: str | None = None
    """Heading of the page; None = the name of the model."""
    weight_bits: Literal[8, 16, 32] = 16
    """Bits of a weight in the exported network. 8 makes it half as large, and the images differ from those of the model."""
    engine_dir: Path | None = None
    """Folder of the unpacked npm package onnxruntime-web; None = it is downloaded from the npm registry once, 33 MB."""
    hub: SpaceConfig = field(default_factory=SpaceConfig)

    def __post_init__(self):
        super().__post_init__()
        require(is_free(Path(self.output_dir)), "output_dir", str(self.output_dir), "give a new or an empty folder")
        self.require(self.title is None or self.title.strip() != "", "title", "give some text, or leave it out")
        if self.engine_dir is not None:
            require(Path(self.engine_dir).is_dir(), "engine_dir", str(self.engine_dir), "there is no such folder")


def main(args: list[str] | None = None) -> None:
    config = parse_config(ExportWebConfig, args, about=__doc__)
    with user_errors(ExportWebConfig):
        check_model(config.model)
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            are = "is" if len(missing) == 1 else "are"
            raise ValueError(f'{" and ".join(missing)} {are} not installed: pip install "hf_ddpm[web]"')
        load_libraries()
        from hf_ddpm.hub.push import push_space
        from hf_ddpm.sampling import load_pipeline
        from hf_ddpm.web.site import export_site

        pipeline = load_pipeline(config.model, device="cpu")
        site = export_site(
            pipeline,
            config.output_dir,
            model=config.model,
            title=config.title,
            weight_bits=config.weight_bits,
            engine_dir=config.engine_dir,
        )
        size = f"{site.num_bytes / 1e6:.1f} MB, the network {site.model_bytes / 1e6:.1f} MB of them"
        print(f"{config.output_dir}: {size}; to see it: python -m http.server --directory {config.output_dir}")
        if config.hub.push_to_hub:
            assert config.hub.repo_id is not None
            print(push_space(config.output_dir, config.hub.repo_id, private=config.hub.private))
