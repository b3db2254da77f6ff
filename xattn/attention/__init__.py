"""Text-query cross-attention over the regions of a picture."""

from xattn.attention.cross import Attended, CrossAttention, Explained, UnitNorm, attention_weights

__all__ = ["Attended", "CrossAttention", "Explained", "UnitNorm", "attention_weights"]
