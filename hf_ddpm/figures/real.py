"""Figure `real`: real images of each class."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hf_ddpm.figures.blocks import ImageBlock, in_rows, plain, plot_blocks
from hf_ddpm.figures.options import FigureDataConfig, RowOptions, ViewOptions
from hf_ddpm.figures.style import save_figure


@dataclass(kw_only=True)
class RealConfig(RowOptions, ViewOptions):
    """Real images of a data source, one row per class."""

    per_class: int = 8
    """Images per class, the first of the split, one row per class; without classes the images fill a square."""
    max_classes: int = 10
    """Number of classes, the first ones; --data.labels chooses others."""
    data: FigureDataConfig = field(default_factory=FigureDataConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data.require(self.data.source is not None, "source", "name the images, as in digits")


def plot_real(config: RealConfig) -> list[Path]:
    """Plot real images of each class; return the paths of the files."""
    from hf_ddpm.figures.real_images import data_title, read_images

    real = read_images(config.data, per_class=config.per_class, max_classes=config.max_classes)
    names, title = None, data_title(config.data)
    if real.names is not None and real.num_classes is not None:
        names = [plain(name) for name in real.names[:: config.per_class]]
        title += f", {len(names)} of {real.num_classes} classes" if len(names) < real.num_classes else ""
    block = ImageBlock(images=in_rows(real.view(config.view_channels), config.per_class), row_names=names)
    return save_figure(plot_blocks([block], title=title), config.output)
