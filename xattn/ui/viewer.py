"""The large view of one picture: overlay, legend, what to show, and what lies under a click."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec

import gradio as gr

from xattn.errors import XattnError
from xattn.geometry import cell_at
from xattn.service.search import Backend
from xattn.types import Size
from xattn.ui import snippets
from xattn.ui.render import Renderer
from xattn.ui.view import Look, View

P = ParamSpec("P")

TOAST_TITLE = "That did not work"

_log = logging.getLogger(__name__)


def guarded(handler: Callable[P, Any]) -> Callable[P, Any]:
    """An event handler that answers a problem with a message and leaves the page as it is."""

    @wraps(handler)
    def guarded_handler(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return handler(*args, **kwargs)
        except XattnError as error:
            gr.Warning(snippets.error(error), title=TOAST_TITLE)
        except Exception:
            _log.exception("%s failed", handler.__name__)
            gr.Warning("Something went wrong. The terminal where xattn runs shows what.", title=TOAST_TITLE)
        return gr.skip()

    return guarded_handler


class Viewer:
    """Builds the components where it is made, hidden until `show` is given a view.

    A handler that shows a view takes `look` among its inputs, `outputs` among its outputs, and returns
    what `show` returns for them.
    """

    def __init__(self, backend: Backend, renderer: Renderer, elem_id: str) -> None:
        self._backend = backend
        self._renderer = renderer
        self.view = gr.State(None)
        with gr.Column(visible=False, elem_id=elem_id, elem_classes="xa-viewer") as self.panel:
            self.legend = gr.HTML()
            self.image = gr.Image(
                type="filepath",
                interactive=False,
                show_label=False,
                buttons=["fullscreen", "download"],
                elem_classes="xa-large",
                alt_text="The picture with one colour for each phrase",
            )
            self.choice = gr.Radio([], show_label=False, container=False, elem_classes="xa-choice")
            with gr.Row(elem_classes="xa-controls"):
                self.opacity = gr.Slider(
                    0, 1, 0.55, step=0.05, label="Opacity", buttons=[], scale=3, min_width=180
                )
                self.heat = gr.Checkbox(True, label="Colours", container=False, scale=1, min_width=110)
                self.boxes = gr.Checkbox(True, label="Boxes", container=False, scale=1, min_width=110)
            self.region = gr.HTML(snippets.POINT_HINT)
            with gr.Accordion("How the scores add up", open=False):
                self.sums = gr.HTML()
            self.credit = gr.HTML()
        self.look = [self.opacity, self.heat, self.boxes]
        self.outputs = [
            self.view, self.panel, self.legend, self.image, self.choice, self.region, self.sums, self.credit
        ]  # fmt: skip
        self._connect()

    def show(self, view: View, *look: Any) -> list[Any]:
        """Updates of `outputs`. look: the values of the components `look`."""
        choices, choice = view.choices(), view.default_choice()
        credit = self._backend.samples.credit(view.path)
        return [
            view,
            gr.Column(visible=True),
            snippets.legend(view, self._renderer.is_readable(view)),
            self._renderer.large(view, Look(choice, *look)),
            gr.Radio(choices=choices, value=choice, visible=bool(choices)),
            snippets.region(view, []),
            snippets.sums(view),
            snippets.credit(credit),
        ]

    def hide(self) -> list[Any]:
        """Updates of `outputs` when there is nothing to show."""
        return [None, gr.Column(visible=False), *[gr.skip()] * (len(self.outputs) - 2)]

    def _connect(self) -> None:
        quiet: dict[str, Any] = {
            "show_progress": "hidden",
            "trigger_mode": "always_last",
            "concurrency_limit": None,
            "api_visibility": "private",
        }
        shown = [self.view, self.choice, *self.look]
        for event in (self.opacity.input, self.heat.input, self.boxes.input):
            event(self._redraw, shown, self.image, **quiet)
        self.choice.input(self._choose, shown, [self.image, self.region], **quiet)
        self.image.select(self._ask, shown, [self.view, self.image, self.region], **quiet)

    @guarded
    def _redraw(self, view: View | None, choice: str | None, *look: Any) -> Any:
        return gr.skip() if view is None else self._renderer.large(view, Look(choice, *look))

    @guarded
    def _choose(self, view: View | None, choice: str | None, *look: Any) -> Any:
        if view is None:
            return gr.skip()
        return self._renderer.large(view, Look(choice, *look)), snippets.region(view, view.shown(choice))

    @guarded
    def _ask(
        self,
        view: View | None,
        choice: str | None,
        opacity: float,
        heat: bool,
        boxes: bool,
        event: gr.SelectData,
    ) -> Any:
        """A click on the picture asks about the region there; a second click on it asks no more."""
        if view is None:
            return gr.skip()
        grid: Size = view.whole.weights.shape
        region = cell_at(tuple(event.index), grid, self._renderer.large_size(view))
        view = replace(view, region=None if region == view.region else region)
        drawn = self._renderer.large(view, Look(choice, opacity, heat, boxes))
        return view, drawn, snippets.region(view, view.shown(choice))
