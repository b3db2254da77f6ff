"""Boxes and grid cells: the only place that knows how one covers the other.

boxes   pixels, fractions and cells; coverage, overlap, points
maps    maps enlarged, and the boxes that stand for a map's areas
"""

from xattn.geometry.boxes import (
    Point,
    area_share,
    box_iou,
    cell_at,
    cell_box,
    coverage,
    point_in_boxes,
    scale_box,
    share_of_box,
    union_box,
)
from xattn.geometry.maps import boxes_from_map, resize_map, weight_in_boxes

__all__ = [
    "Point",
    "area_share",
    "box_iou",
    "boxes_from_map",
    "cell_at",
    "cell_box",
    "coverage",
    "point_in_boxes",
    "resize_map",
    "scale_box",
    "share_of_box",
    "union_box",
    "weight_in_boxes",
]
