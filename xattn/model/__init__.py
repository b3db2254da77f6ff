"""The model: two towers and the cross-attention between them."""

from xattn.model.calibration import MOST_NULL, Calibration
from xattn.model.model import XAttnModel

__all__ = ["MOST_NULL", "Calibration", "XAttnModel"]
