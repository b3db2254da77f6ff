"""The towers. Nothing outside this package imports open_clip, timm or tokenizers."""

from xattn.encoders.base import Frames, TextEncoder, VisionEncoder

__all__ = ["Frames", "TextEncoder", "VisionEncoder"]
