"""What decoded images look like, in a table or in a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
