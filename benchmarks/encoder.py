"""Time to encode one photo with the default model, against an eager OpenCLIP ViT-B/32 in the same run.

Both get pictures that are decoded and resized; OpenCLIP's weights are random, which costs the same.
"""

from __future__ import annotations

import statistics

import open_clip
import torch

import xattn
from benchmarks.record import interleaved, milliseconds, record
from xattn import images
from xattn.encoders import Frames
from xattn.ui.samples import Samples

PEER = "ViT-B-32"
ROUNDS = 15


def main() -> None:
    model = xattn.load_model()
    peer = open_clip.create_model(PEER, pretrained=None).eval()
    figures: dict[str, object] = {"peer": f"OpenCLIP {PEER}, 224 px, eager, random weights"}
    photos = sorted(Samples().photos.iterdir())
    for batch_size in (1, 8):
        frames = [
            model.preprocess(images.load(path, at_least=model.vision.longest_side).picture)
            for path in photos[:batch_size]
        ]
        pixels = torch.randn(batch_size, 3, 224, 224)

        def encode(frames: list[Frames] = frames) -> None:
            model.encode_frames(frames)

        @torch.inference_mode()
        def encode_peer(pixels: torch.Tensor = pixels) -> None:
            peer.encode_image(pixels)

        seconds = interleaved({"default": encode, "peer": encode_peer}, ROUNDS)
        ratios = [a / b for a, b in zip(seconds["default"], seconds["peer"], strict=True)]
        figures[f"batch_{batch_size}"] = {
            "default": milliseconds([each / batch_size for each in seconds["default"]]),
            "peer": milliseconds([each / batch_size for each in seconds["peer"]]),
            "ratio": round(statistics.median(ratios), 3),
        }
    record("encoder", figures)


if __name__ == "__main__":
    main()
