"""The page: search, one picture, credits. Layout and events; what they do is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

from xattn.service.search import Backend, timed_search
from xattn.ui import snippets
from xattn.ui.render import Renderer
from xattn.ui.view import View
from xattn.ui.viewer import Viewer, guarded

NUM_RESULTS = 12
NUM_EXAMPLES = 8
POLL_SECONDS = 0.5
FORGET_UPLOADS_SECONDS = 3600

# On a narrow screen the large view is above the results, out of sight of who picks one further down.
SCROLL_TO_VIEW = """() => {
    const view = document.querySelector('#search-view');
    if (view && window.innerWidth < 800) view.scrollIntoView();
}"""


def build(backend: Backend, renderer: Renderer) -> gr.Blocks:
    """The page as an app that is not launched yet."""
    forget = (FORGET_UPLOADS_SECONDS, FORGET_UPLOADS_SECONDS)
    page: gr.Blocks = gr.Blocks(title="xattn", analytics_enabled=False, delete_cache=forget)
    with page:
        gr.HTML(snippets.HEADER)
        status = gr.HTML(snippets.status(backend.status))
        with gr.Tab("Search"):
            search = _SearchTab(backend, renderer)
        with gr.Tab("Find in one picture"):
            ground = _GroundTab(backend, renderer)
        if backend.shows_samples and backend.samples.credits:
            with gr.Tab("Credits"):
                gr.HTML(snippets.credits(backend.samples.credits.values()))
        timer = gr.Timer(POLL_SECONDS)

        def poll() -> list[Any]:
            """What a page shows that has not seen the end of the preparation yet."""
            current = backend.status
            waiting = current.stage in ("loading", "indexing")
            usable = gr.Button(interactive=current.stage == "ready")
            return [
                gr.HTML(snippets.status(current), visible=current.stage != "ready"),
                gr.Timer(active=waiting),
                usable,
                usable,
                search.welcome() if current.stage == "ready" else gr.skip(),
            ]

        outputs = [status, timer, search.button, ground.button, search.summary]
        for event in (page.load, timer.tick):
            event(
                poll,
                None,
                outputs,
                show_progress="hidden",
                concurrency_limit=None,
                api_visibility="private",
            )
    return page


class _SearchTab:
    def __init__(self, backend: Backend, renderer: Renderer) -> None:
        self._backend = backend
        self._renderer = renderer
        examples = backend.samples.queries[:NUM_EXAMPLES] if backend.shows_samples else []
        with gr.Row(elem_classes="xa-search"):
            self.box = gr.Textbox(
                placeholder="a dog on a beach",
                show_label=False,
                container=False,
                autofocus=True,
                max_lines=1,
                scale=8,
                min_width=180,
                elem_id="query",
            )
            self.button = gr.Button("Search", variant="primary", interactive=False, scale=1, min_width=90)
        if examples:
            chips = gr.Dataset(
                components=[self.box],
                samples=[[text] for text in examples],
                show_label=False,
                elem_id="examples",
                type="values",
            )
        self.summary = gr.HTML()
        with gr.Row(elem_classes="xa-results"):
            with gr.Column(scale=5, min_width=320):
                self.gallery = gr.Gallery(
                    show_label=False,
                    columns=4,
                    object_fit="contain",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    visible=False,
                    elem_id="results",
                )
            with gr.Column(scale=6, min_width=320):
                self.viewer = Viewer(backend, renderer, "search-view")
        self.views = gr.State([])
        self._outputs = [self.summary, self.gallery, self.views, *self.viewer.outputs]
        inputs = [self.box, *self.viewer.look]
        for event in (self.box.submit, self.button.click):
            event(self._search, inputs, self._outputs, api_visibility="private")
        if examples:
            chips.click(
                self._search_example,
                [chips, *self.viewer.look],
                [self.box, *self._outputs],
                api_visibility="private",
            )
        opened = self.gallery.select(
            self._open,
            [self.views, *self.viewer.look],
            self.viewer.outputs,
            show_progress="hidden",
            api_visibility="private",
        )
        opened.then(None, js=SCROLL_TO_VIEW, show_progress="hidden", api_visibility="private")

    def welcome(self) -> str:
        backend = self._backend
        return snippets.welcome(backend.num_pictures(), backend.model_name(), samples=backend.shows_samples)

    @guarded
    def _search(self, text: str, *look: Any) -> Any:
        return self._results(text, *look)

    @guarded
    def _search_example(self, example: list[str], *look: Any) -> Any:
        return [example[0], *self._results(example[0], *look)]

    def _results(self, text: str, *look: Any) -> list[Any]:
        hits, seconds = timed_search(self._backend, text, NUM_RESULTS)
        views = [View.of_hit(hit) for hit in hits]
        probabilities = [view.whole.probability for view in views]
        thumbnails = [
            (file, snippets.caption(rank, probability))
            for rank, (file, probability) in enumerate(
                zip(self._renderer.thumbnails(views), probabilities, strict=True), 1
            )
        ]
        return [
            snippets.summary(
                text.strip(),
                probabilities,
                self._backend.num_pictures(),
                seconds,
                self._backend.nothing_below(),
            ),
            gr.Gallery(thumbnails, visible=bool(views), selected_index=0 if views else None),
            views,
            *(self.viewer.show(views[0], *look) if views else self.viewer.hide()),
        ]

    @guarded
    def _open(
        self, views: list[View], opacity: float, heat: bool, boxes: bool, event: gr.SelectData
    ) -> Any:
        index = event.index
        if not isinstance(index, int) or not 0 <= index < len(views):
            return gr.skip()
        return self.viewer.show(views[index], opacity, heat, boxes)


class _GroundTab:
    def __init__(self, backend: Backend, renderer: Renderer) -> None:
        self._backend = backend
        self._renderer = renderer
        with gr.Row(elem_classes="xa-results"):
            with gr.Column(scale=5, min_width=320):
                self.upload = gr.Image(
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    label="Picture",
                    buttons=[],
                    elem_id="upload",
                )
                # Gradio's own would open the file before our checks, and fail without a friendly word.
                self.upload.preprocess = _path_of_upload  # type: ignore[method-assign]
                with gr.Row(elem_classes="xa-search"):
                    self.box = gr.Textbox(
                        placeholder="a man with a red hat",
                        show_label=False,
                        container=False,
                        max_lines=1,
                        scale=8,
                        min_width=180,
                        elem_id="ground-query",
                    )
                    self.button = gr.Button(
                        "Find", variant="primary", interactive=False, scale=1, min_width=90
                    )
                gr.HTML('<p class="xa-summary">The picture stays on this machine and is not kept.</p>')
            with gr.Column(scale=6, min_width=320):
                self.viewer = Viewer(backend, renderer, "ground-view")
        inputs = [self.upload, self.box, *self.viewer.look]
        for event in (self.box.submit, self.button.click):
            event(self._ground, inputs, self.viewer.outputs, api_visibility="private")
        self.upload.clear(self.viewer.hide, None, self.viewer.outputs, api_visibility="private")

    @guarded
    def _ground(self, upload: str | None, text: str, *look: Any) -> Any:
        if upload is None:
            gr.Warning("Choose a picture first.")
            return gr.skip()
        path = Path(upload)
        size = self._renderer.size_of(path)
        whole, *phrases = self._backend.ground(path, text)
        return self.viewer.show(View(path, size, whole, tuple(phrases)), *look)


def _path_of_upload(payload: ImageData | None) -> str | None:
    """Where Gradio put the upload. It has made sure that the path is one of its own uploads."""
    return payload.path if payload is not None else None
