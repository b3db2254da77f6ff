"""The page's texts as HTML. Everything that comes from outside is escaped here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from xattn import overlay
from xattn.errors import ImageError, XattnError
from xattn.service.samples import Credit
from xattn.service.search import Status
from xattn.types import Grounding
from xattn.ui.view import View

HEADER = """<header class="xa-header"><h1>xattn</h1>
<p>Search pictures by text, and see where each part of the text was found.</p></header>"""


def percent(share: float) -> str:
    """Whole percents; what is neither nothing nor everything is never rounded to it."""
    if 0 < share < 0.005:
        return "&lt;1%"
    if 0.995 <= share < 1:
        return "&gt;99%"
    return f"{share:.0%}"


def plain_percent(share: float) -> str:
    """The same where no HTML is understood."""
    return percent(share).replace("&lt;", "<").replace("&gt;", ">")


def error(problem: XattnError) -> str:
    """One sentence; of a picture's path only the name, as an upload's folder means nothing to its owner."""
    if isinstance(problem, ImageError):
        return escape(f"{problem.path.name}: {problem.reason}")
    text = str(problem)
    return escape(text[:1].upper() + text[1:])


# --- the state of the server ----------------------------------------------------------------------------


def status(current: Status) -> str:
    if current.stage == "ready":
        return ""
    if current.stage == "failed":
        return f'<div class="xa-status xa-failed" role="alert">{escape(current.message)}</div>'
    text = escape(current.message)
    if current.total:
        text += f": {current.done} of {current.total}. Only the first start takes this long."
    share = current.done / current.total if current.total else 0.0
    kind = "" if current.total else " xa-unknown"
    return (
        f'<div class="xa-status" role="status"><p>{text}</p>'
        f'<div class="xa-progress{kind}" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share * 100:.0f}"><div style="width:{share:.1%}"></div></div></div>'
    )


def welcome(num_pictures: int, model_name: str, *, samples: bool) -> str:
    if not num_pictures:
        return (
            '<p class="xa-summary">This index holds no pictures yet. Add some with '
            "<code>xattn index FOLDER --index INDEX_DIR</code>; they can be found here at once.</p>"
        )
    what = "sample photos" if samples else "pictures"
    return (
        f'<p class="xa-summary">{num_pictures:,} {what}, model {escape(model_name)}. '
        "Describe what to find; put a part in [brackets] to have it located by itself.</p>"
    )


# --- results --------------------------------------------------------------------------------------------


def summary(
    text: str, probabilities: Sequence[float], num_pictures: int, seconds: float, nothing_below: float
) -> str:
    """One line above the results. probabilities: best first; nothing_below: the model's."""
    if not probabilities:
        return welcome(num_pictures, "", samples=False)
    count = f"{num_pictures:,} picture" + "s" * (num_pictures != 1)
    took = f"{seconds * 1000:.0f} ms"
    if max(probabilities) < nothing_below:
        return (
            f'<p class="xa-summary xa-unlikely"><b>Probably nothing found.</b> Of {count} none matches '
            f"“{escape(text)}” with more than {percent(max(probabilities))}. The nearest ones ({took}):</p>"
        )
    return (
        f'<p class="xa-summary">The best {len(probabilities)} of {count} for “{escape(text)}” ({took})</p>'
    )


def caption(rank: int, probability: float) -> str:
    """Plain text: the gallery escapes it."""
    return f"{rank} · {plain_percent(probability)}"


def legend(view: View, readable: bool = True) -> str:
    """Heading, then one chip a phrase: colour, text, probability."""
    where = f"Result {view.rank}" if view.rank else "The whole text"
    name = f"<span>{escape(view.path.name)}</span>" if view.rank else ""
    heading = f'<p class="xa-heading"><b>{where}: {percent(view.whole.probability)} match</b>{name}</p>'
    chips = "".join(_chip(i, part) for i, part in enumerate(view.groundings))
    gone = "" if readable else '<p class="xa-gone">The picture file can no longer be read.</p>'
    return f'<div class="xa-legend">{heading}<ul>{chips}</ul>{gone}</div>'


def _chip(number: int, part: Grounding) -> str:
    kind = hint = ""
    if not part.found:
        attention = f"{percent(part.null_weight)} of its attention goes nowhere in this picture"
        kind, hint = f' class="xa-absent" title="{attention}"', "<em>not found here</em>"
    return (
        f"<li{kind}>{_swatch(number)}<span>{escape(part.phrase.text)}</span>"
        f"<b>{percent(part.probability)}</b>{hint}</li>"
    )


def _swatch(number: int) -> str:
    return '<i class="xa-swatch" style="background:rgb({},{},{})"></i>'.format(*overlay.color_of(number))


POINT_HINT = '<p class="xa-point">Click the picture: which phrase looks there, and what the place adds.</p>'


def region(view: View, shown: Iterable[tuple[int, Grounding]]) -> str:
    """What each phrase finds in the region the user asked about."""
    if view.region is None:
        return POINT_HINT
    rows = []
    for number, part in shown:
        weight, added = float(part.weights[view.region]), float(part.contributions[view.region])
        average = (1 - part.null_weight) / part.weights.size
        times = f", {weight / average:.1f}× the average" if average > 0 else ""
        rows.append(
            f"<tr><th>{_swatch(number)}{escape(part.phrase.text)}</th>"
            f"<td>{weight:.1%} of its attention{times}</td><td>{_signed(added)} to its score</td></tr>"
        )
    return f'<div class="xa-point"><b>In the framed region</b><table>{"".join(rows)}</table></div>'


def sums(view: View) -> str:
    """How each score adds up, exactly."""
    parts = [*enumerate(view.phrases), (len(view.phrases), view.whole)]
    rows = []
    for number, part in parts:
        addends = [
            float(part.contributions.sum()),
            *(part.rest[name] for name in ("pooled", "null", "hubness", "bias")),
        ]
        cells = "".join(f"<td>{_signed(addend)}</td>" for addend in addends)
        rows.append(
            f"<tr><th>{_swatch(number)}{escape(part.phrase.text)}</th>{cells}"
            f"<td><b>{part.score:.2f}</b></td><td>{percent(part.probability)}</td></tr>"
        )
    head = "".join(
        f'<th title="{title}">{name}</th>'
        for name, title in (
            ("", ""),
            ("regions", "what the places in the picture add, each with its share"),
            ("picture", "what the picture as a whole adds"),
            ("nowhere", "what attention to nothing adds"),
            ("typical", "less what this picture matches with any text, and this text with any picture"),
            ("offset", "the same for every picture and text"),
            ("score", "the sum; it ranks the results"),
            ("match", "the score as a probability"),
        )
    )
    return f'<div class="xa-sums"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _signed(addend: float) -> str:
    return f"{round(addend, 2) + 0.0:+.2f}"  # + 0.0 makes -0.0 a plain zero


# --- credits --------------------------------------------------------------------------------------------


def credit(entry: Credit | None) -> str:
    if entry is None:
        return ""
    page = _link(entry.photo_page, "photo on Flickr")
    return (
        f'<p class="xa-credit">{escape(entry.title)}. {_link(entry.license_url, entry.license)}, {page}. '
        "Resized; the colours and boxes are ours.</p>"
    )


def credits(entries: Iterable[Credit]) -> str:
    rows = "".join(
        f"<tr><td>{escape(entry.title)}</td><td>{_link(entry.license_url, entry.license)}</td>"
        f"<td>{_link(entry.photo_page, 'photo on Flickr')}</td></tr>"
        for entry in entries
    )
    return (
        "<p>The sample photos were published on Flickr and come from the COCO 2017 data set. They belong "
        "to their authors and were resized. The model that comes with xattn was not trained on them.</p>"
        f'<div class="xa-sums"><table>{rows}</table></div>'
    )


def _link(address: str, text: str) -> str:
    if not address.startswith(("https://", "http://")):
        return escape(text)
    return f'<a href="{escape(address)}" target="_blank" rel="noopener noreferrer">{escape(text)}</a>'
