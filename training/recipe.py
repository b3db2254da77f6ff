"""Every number of the shipped model's training."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the default model is trained.

    vit_blocks, text_layers: how many of the last blocks of the ViT and of the text encoder are trained; the
        rest of the towers is frozen
    captions, phrases, swaps: texts drawn of each photo in a batch: captions, noun phrases with boxes, texts
        with one attribute exchanged; absent: names of annotated categories that the photo lacks
    learning_rate: of fusion, text head and attention; tower_rate: of the trained blocks
    averaging: decay of the running mean of the weights, which is what is saved
    *_weight: factors of the losses (training.objective)
    held_out: photos of each data set that are not trained on; probabilities are fitted on them
    pooled_weight: β of the score (xattn.model), chosen on the `dev` parts
    """

    epochs: int = 5
    batch_size: int = 64
    vit_blocks: int = 3
    text_layers: int = 2
    captions: int = 2
    phrases: int = 5
    swaps: int = 4
    absent: int = 2
    learning_rate: float = 4e-4
    tower_rate: float = 5e-5
    weight_decay: float = 0.1
    warmup_steps: int = 60
    averaging: float = 0.99
    max_gradient: float = 1.0
    max_scale: float = 60.0
    swap_scale: float = 20.0
    attended_weight: float = 1.0
    joint_weight: float = 1.0
    pooled_loss_weight: float = 1.0
    presence_weight: float = 0.5
    phrase_weight: float = 0.5
    phrase_presence_weight: float = 0.5
    box_weight: float = 2.0
    evenness: float = 0.5
    swap_weight: float = 1.0
    swap_presence_weight: float = 0.5
    absent_weight: float = 0.25
    held_out: int = 300
    bank_size: int = 1000
    pooled_weight: float = 0.6
    matched_share: float = 0.1
    checkpoint_minutes: float = 3.0
    seed: int = 0
    max_photos: int | None = None


def smoke(recipe: Recipe) -> Recipe:
    """The same recipe on a dozen images and a few steps: does everything run?"""
    return replace(
        recipe,
        epochs=2,
        batch_size=4,
        held_out=3,
        bank_size=6,
        warmup_steps=1,
        max_photos=16,
        averaging=0.5,
    )
