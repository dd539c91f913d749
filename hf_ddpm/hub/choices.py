"""What a model card cannot read from a run: the license of the weights, the data set of a copy, and what is known of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hf_ddpm.config import BaseConfig

HUB_DATA_SET = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
KNOWN_DATA = {
    "digits": "They are the test images of *Optical Recognition of Handwritten Digits* (E. Alpaydin and C. Kaynak, UCI "
    "Machine Learning Repository). License: none is named by their description in scikit-learn.",
    "ylecun/mnist": "MNIST is by Y. LeCun, C. Cortes and C. J. C. Burges. License: MIT according to its card on the Hub, "
    "CC BY-SA 3.0 according to the documentation of Keras.",
    "uoft-cs/cifar10": "CIFAR-10 is by A. Krizhevsky, V. Nair and G. Hinton. License: unknown according to its card on the "
    "Hub.",
}
"""Authors and license of data sets, in Markdown, by the `--data.source` that reads them."""


@dataclass(kw_only=True)
class CardChoices(BaseConfig):
    """What the user chooses to say in a model card."""

    license: str | None = None
    """License of the weights, by its name on the Hub, such as apache-2.0; None = that of the card there, or none."""
    dataset: str | None = None
    """Id on the Hub of the data set of which the run has read a copy from a folder; None = that of the card there, or
    unknown."""

    def __post_init__(self) -> None:
        super().__post_init__()
        named = self.license is None or re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license) is not None
        self.require(named, "license", "give its name on the Hub, such as apache-2.0 or cc-by-4.0")
        is_id = self.dataset is None or HUB_DATA_SET.fullmatch(self.dataset) is not None
        self.require(is_id, "dataset", "give its id on the Hub, such as ylecun/mnist")
