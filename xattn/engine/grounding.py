"""Where a text and its phrases are in one picture; no index is needed."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from xattn import images
from xattn.errors import QueryError
from xattn.model import XAttnModel
from xattn.query import parse
from xattn.types import Grounding, Phrase


def ground(
    image: Path | str | Image.Image, text: str, model: XAttnModel | str = "default"
) -> list[Grounding]:
    """Grounds a text in one picture: the whole text first, then its phrases, if it has parts.

    Args:
        image: a file, or a picture in memory
        text: `[brackets]` mark phrases
        model: as loaded, or a name or path for `xattn.load_model`

    Returns:
        Maps of the picture's region grid; boxes are in pixels of the upright original.

    Raises:
        QueryError: the text is empty.
        ImageError: the picture cannot be read.
    """
    if not isinstance(model, XAttnModel):
        from xattn.model.checkpoint import load_model

        model = load_model(model)
    phrases = groundable(text)
    if isinstance(image, Image.Image):
        picture = images.upright(image)
        size = (picture.height, picture.width)
    else:
        picture, size = images.load(Path(image), at_least=model.vision.longest_side)
    return model.ground_regions(model.encode_images([picture]), phrases, [size])[0]


def groundable(text: str) -> list[Phrase]:
    """The whole text, then its phrases, unless the only one is the whole text.

    Raises:
        QueryError: the text is empty.
    """
    query = parse(text)
    stripped = query.text.strip()
    if not stripped:
        raise QueryError("the query is empty: describe what to look for, such as 'a dog on a beach'")
    start = query.text.index(stripped)
    whole = Phrase(stripped, start, start + len(stripped), "whole")
    parts = [phrase for phrase in query.phrases if phrase.text != stripped]
    return [whole, *parts]
