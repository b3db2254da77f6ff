"""Recipes: all the numbers of a training run in one frozen dataclass, and functions that make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from xattn.errors import DataError


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of one run.

    views:            versions of each picture: whole, mirrored, then random crops
    dim:              width D of regions and texts
    attention_heads:  of the cross-attention
    folds, whole_teachers: pooled heads whose mean the model's copies (training.distil), each trained for
                      teacher_epochs: one for each fold of the pictures, which it leaves out, and more that
                      see all pictures
    copy_epochs:      of copying alone, before regions are trained; copy_weight: of the copy's loss, also
                      while they are
    added_texts:      that the copy is asked about, beside the batch's captions and all names
    name_weight:      of the teachers' loss on names of categories, beside captions, which weigh 1
    runs, epochs:     of training regions and attention: so many runs from the same start on other batches,
                      whose weights are averaged
    averaging:        the model is the running mean of the weights, of which each step keeps so much
    learned_share:    how large what training starts from random is, beside what is aligned already
                      (training.alignment)
    initial_scale:    of the two contrastive terms' logits; learned, at most max_scale
    region_texts:     texts with boxes (phrases, categories, caption phrases) drawn per picture and step;
                      absent_texts: categories it lacks
    captions:         drawn per picture and step, fewer where it has fewer
    swaps:            wrong captions (training.swaps) drawn with each caption, fewer where it has fewer
    joint_weight, presence_weight, box_weight, absent_weight: of these losses, beside the contrastive one
                      of attended scores, which weighs 1
    evenness:         how much attention shall fill a box, beside lying in it
    held_out:         pictures kept from training to calibrate probabilities on
    matched_share:    of the pairs that calibration imagines, how many match
    pooled_weight:    β of the score (xattn.model), chosen on the dev photos
    bank_size:        pictures, each with one of its captions, that hubness is measured on; bank_scale: its
                      scale (xattn.model.hubness), chosen on the dev photos
    max_pictures:     use the first so many with captions, and of those with boxes alone, only
    random_towers:    small towers with random weights instead of the pretrained ones
    """

    name: str
    views: int = 4
    dim: int = 256
    attention_heads: int = 4
    dropout: float = 0.3
    folds: int = 8
    whole_teachers: int = 8
    teacher_epochs: int = 16
    copy_epochs: int = 30
    copy_weight: float = 100.0
    added_texts: int = 200
    name_weight: float = 0.1
    runs: int = 3
    epochs: int = 12
    batch_size: int = 96
    learning_rate: float = 1e-3
    weight_decay: float = 0.2
    warmup_steps: int = 50
    averaging: float = 0.99
    learned_share: float = 0.3
    initial_scale: float = 20.0
    max_scale: float = 60.0
    region_texts: int = 8
    absent_texts: int = 10
    captions: int = 2
    swaps: int = 1
    joint_weight: float = 1.0
    presence_weight: float = 0.5
    box_weight: float = 4.0
    evenness: float = 0.5
    absent_weight: float = 1.0
    held_out: int = 96
    matched_share: float = 0.1
    pooled_weight: float = 0.8
    bank_size: int = 1000
    bank_scale: float = 10.0
    max_pictures: int | None = None
    random_towers: bool = False
    seed: int = 0


def default(smoke: bool = False) -> Recipe:
    """The model that ships with xattn. smoke: the whole path on twelve pictures, in seconds."""
    recipe = Recipe("default")
    if not smoke:
        return recipe
    return replace(
        recipe,
        views=3,
        dim=32,
        dropout=0.0,
        folds=2,
        whole_teachers=1,
        teacher_epochs=4,
        copy_epochs=4,
        added_texts=5,
        epochs=12,
        batch_size=4,
        captions=2,
        joint_weight=1.0,
        evenness=0.5,
        warmup_steps=2,
        averaging=0.5,
        held_out=4,
        bank_size=6,
        max_pictures=12,
        random_towers=True,
    )


RECIPES: Mapping[str, Callable[[bool], Recipe]] = MappingProxyType({"default": default})


def changed(recipe: Recipe, settings: Mapping[str, str]) -> Recipe:
    """The recipe with some of its numbers replaced, as given on a command line.

    Raises DataError for a setting that does not exist, is no number of a recipe, or does not parse.
    """
    # A bool or an optional is set by the recipe's variants, not by hand.
    kinds = {f.name: {"int": int, "float": float}.get(str(f.type)) for f in fields(Recipe)}
    valid = {name: kind for name, kind in kinds.items() if kind is not None}
    values: dict[str, int | float] = {}
    for name, text in settings.items():
        if name not in valid:
            raise DataError(f"no setting {name!r} in a recipe; valid are {', '.join(valid)}")
        try:
            values[name] = valid[name](text)
        except ValueError as error:
            raise DataError(f"setting {name}: expected {valid[name].__name__}, got {text!r}") from error
    return replace(recipe, **values)  # type: ignore[arg-type]
