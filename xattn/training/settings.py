"""Settings of a fine-tuning run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from xattn.errors import DataError

FINAL_RATE = 1e-3
"""What is left of the learning rate at the end."""
LOSSES = ("info_nce", "sigmoid")
MODES = ("head", "lora", "last-blocks", "full")
"""What is trained; see `xattn.training.modes`."""
TOWER_RATES = {"head": 0.0, "lora": 2e-4, "last-blocks": 2e-5, "full": 1e-5}
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class Settings:
    """One run; each field is an option of `xattn train`, described below it."""

    mode: str = "head"
    """what is trained: head, lora, last-blocks or full; see xattn.training.modes"""
    epochs: int = 20
    """times that every picture is trained on"""
    batch_size: int = 64
    """pictures that are told apart in one step, over all processes"""
    chunk: int = 32
    """pictures, and captions, that pass the towers at once: what memory grows with"""
    captions: int = 4
    """captions drawn per picture and step, fewer where it has fewer"""
    views: int = 1
    """versions of each picture: whole, mirrored, crops; in mode head one pass through the towers each"""
    loss: str = "info_nce"
    """info_nce or sigmoid, over all pairs of a batch"""
    learning_rate: float = 3e-4
    """learning rate of the heads, at its highest"""
    tower_rate: float = 0.0
    """learning rate inside the towers; 0: by mode"""
    weight_decay: float = 0.05
    """weight decay of matrices"""
    warmup_share: float = 0.1
    """share of the steps in which the learning rate rises"""
    max_gradient_norm: float = 1.0
    """gradients are scaled down to this norm"""
    max_scale: float = 60.0
    """highest inverse temperature of the contrastive loss"""
    rank: int = 8
    """rank of the adapters, mode lora"""
    alpha: float = 16.0
    """scale of the adapters, mode lora"""
    blocks: int = 2
    """trained blocks of each net, mode last-blocks"""
    precision: str = "auto"
    """arithmetic of the towers: fp32, bf16 or fp16; auto: bf16 on a GPU that has it"""
    compile: bool = False
    """compile the towers' blocks: some minutes more at the start, for a GPU"""
    shard: bool = False
    """spread the towers' weights over the processes (FSDP), mode full"""
    ema: float = 0.0
    """decay of the moving average of the weights that is validated and saved; 0: none"""
    validations: int = 20
    """how often the held-out pictures are searched, spread over the run"""
    patience: int = 6
    """stop after so many validations without a better recall; 0 never stops"""
    held_out: float = 0.1
    """share of the pictures held out where the data has no splits"""
    max_held_out: int = 500
    """pictures held out, at most"""
    max_forgetting: float = 0.02
    """recall@1 that the reference set may lose, as a share"""
    keep: float = 0.3
    """share of the starting weights in the result where nothing measures forgetting"""
    replay_share: float = 0.5
    """share of general pictures in each batch, where there are some to replay"""
    max_replay: int = 600
    """general pictures to train on, at most"""
    replay_apart: int = 200
    """general pictures kept apart to measure forgetting on"""
    hard_group: int = 0
    """pictures that the model confuses and a batch holds together; 0: none"""
    hard_every: int = 3
    """epochs after which confused pictures are looked for anew"""
    same_text: float = 0.9
    """cosine from which two captions are taken for the same"""
    same_picture: float = 0.95
    """cosine from which two pictures are taken for the same"""
    save_seconds: float = 20.0
    """seconds between two checkpoints; does not change the result"""
    max_pictures: int = 0
    """pictures to train on, at most; 0: all"""
    seed: int = 0
    """of everything that is drawn at random"""


def smoke(settings: Settings) -> Settings:
    """The whole path on few pictures, in seconds."""
    return replace(
        settings, epochs=2, batch_size=4, chunk=3, views=1, validations=2, max_pictures=16, save_seconds=0.0
    )


def checked(settings: Settings) -> Settings:
    """Raises DataError where a number makes no sense."""
    for name, valid in (("loss", LOSSES), ("mode", MODES), ("precision", PRECISIONS)):
        if getattr(settings, name) not in valid:
            raise DataError(
                f"setting {name}: expected one of {', '.join(valid)}, got {getattr(settings, name)!r}"
            )
    for name in ("epochs", "captions", "views", "validations", "chunk", "rank", "blocks", "hard_every"):
        if getattr(settings, name) < 1:
            raise DataError(f"setting {name}: expected at least 1, got {getattr(settings, name)}")
    if settings.batch_size < 2:
        raise DataError("setting batch_size: expected at least 2, since pictures are told apart")
    for name in ("held_out", "keep", "warmup_share", "ema", "replay_share"):
        if not 0 <= getattr(settings, name) < 1:
            raise DataError(f"setting {name}: expected a share from 0 to below 1")
    if not (math.isfinite(settings.learning_rate) and settings.learning_rate > 0):
        raise DataError(f"setting learning_rate: expected above 0, got {settings.learning_rate}")
    if settings.shard and settings.mode != "full":
        raise DataError(f"setting shard: is for mode full, got mode {settings.mode}")
    if settings.shard and (settings.precision == "fp16" or settings.chunk < 2):
        raise DataError("setting shard: expected precision bf16 or fp32 and a chunk of at least 2")
    return settings


def tower_rate(settings: Settings) -> float:
    return settings.tower_rate or TOWER_RATES[settings.mode]


def rate(settings: Settings, step: int, num_steps: int) -> float:
    """Share of the learning rate in step 0 … num_steps - 1: a linear rise times half a cosine."""
    rise = min(1.0, (step + 1) / max(1.0, settings.warmup_share * num_steps))
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / num_steps)))
    return rise * (fall + FINAL_RATE)
