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
    """One run.

    mode:           head, lora, last-blocks or full; see `xattn.training.modes`
    batch_size:     pictures that are told apart in one step, over all processes
    chunk:          pictures, and captions, that pass the towers at once: what memory grows with, while the
                    batch, and with it the wrong answers, may be as large as wanted
    views:          versions of each picture: whole, mirrored, then random crops, new ones in every epoch
                    where the towers are trained (there at least 4, half of them crops). In head mode each
                    is one more pass of all pictures through the towers, where most of the time goes
    captions:       drawn per picture and step, fewer where it has fewer
    loss:           info_nce or sigmoid, over all pairs of a batch
    tower_rate:     learning rate inside the towers; 0: by mode, see TOWER_RATES
    rank, alpha:    of the adapters, mode lora
    blocks:         of each net, mode last-blocks
    precision:      of the towers' arithmetic: fp32, bf16 or fp16; auto: bf16 on a GPU that has it
    compile:        torch.compile for the towers' blocks: some minutes more at the start, for a GPU
    shard:          spread the towers' weights over the processes (FSDP), mode full
    ema:            decay of the moving average of the weights that is validated and saved; 0: none
    patience:       stop after so many validations without a better recall; 0 never stops
    validations:    how often the held-out pictures are searched, spread over the run
    held_out:       share of the pictures held out where the data has no splits; at most max_held_out
    max_forgetting: recall@1 that the reference set may lose, as a share; see `run.interpolated`
    keep:           share of the starting weights in the result where nothing measures forgetting
    replay_share:   share of general pictures in each batch, where there are some to replay
    max_replay:     general pictures to train on, at most; replay_apart: to measure forgetting on
    hard_group:     pictures that the model confuses and a batch holds together; 0: none, see `mining`
    hard_every:     epochs after which they are looked for anew
    same_text, same_picture: cosines from which two captions or pictures are taken for the same
    save_seconds:   between two checkpoints; does not change the result
    """

    mode: str = "head"
    epochs: int = 20
    batch_size: int = 64
    chunk: int = 32
    captions: int = 4
    views: int = 1
    loss: str = "info_nce"
    learning_rate: float = 3e-4
    tower_rate: float = 0.0
    weight_decay: float = 0.05
    warmup_share: float = 0.1
    max_gradient_norm: float = 1.0
    max_scale: float = 60.0
    rank: int = 8
    alpha: float = 16.0
    blocks: int = 2
    precision: str = "auto"
    compile: bool = False
    shard: bool = False
    ema: float = 0.0
    validations: int = 20
    patience: int = 6
    held_out: float = 0.1
    max_held_out: int = 500
    max_forgetting: float = 0.02
    keep: float = 0.3
    replay_share: float = 0.5
    max_replay: int = 600
    replay_apart: int = 200
    hard_group: int = 0
    hard_every: int = 3
    same_text: float = 0.9
    same_picture: float = 0.95
    save_seconds: float = 20.0
    max_pictures: int = 0
    seed: int = 0


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
