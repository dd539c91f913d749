"""What decoded images look like, in a table or in a stream, and what they are conditioned on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_ddpm.data.options import Condition
from hf_ddpm.image_shape import PixelType, ValueRange


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodedImages:
    """Images of one shape and type."""

    channels: int
    """1 (gray), 3 (RGB), or any other number that the images have."""
    image_size: tuple[int, int]
    """Height and width, in pixels."""
    pixel_type: PixelType = "uint8"
    """Type of their values."""
    value_range: ValueRange | None = None
    """The values that are -1 and 1 in the model; None = 0 and 255, those of uint8."""

    condition: Condition = "class"
    """What their labels are, if there are any, see `open_source`."""
    condition_range: tuple[float, float] | None = None
    """The lowest and the highest number that they are conditioned on; None = they have classes or labels, or nothing."""

    @property
    def type_facts(self) -> dict[str, Any]:
        """What a fingerprint says of the type of the values: nothing of uint8."""
        if self.pixel_type == "uint8":
            return {}
        return {"pixel_type": self.pixel_type, "value_range": list(self.value_range or ())}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.channels, *self.image_size
