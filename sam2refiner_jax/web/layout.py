"""The page in Gradio: its tabs, and what happens when it is closed."""

import gradio as gr

from .clip_tab import ClipTab
from .controls import page_of
from .photo_tab import PhotoTab
from .state import PageState

__all__ = ["build_page"]

TITLE = "sam2refiner"
# Requests that wait at most; each page has one or two.
WAITING_REQUESTS = 64


def build_page(state: PageState) -> gr.Blocks:
    """The page, with nothing open in it."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        with gr.Tabs():
            with gr.Tab("Photo"):
                PhotoTab(state)
            with gr.Tab("Video"):
                ClipTab(state)

        def leave(request: gr.Request) -> None:
            state.pages.close(page_of(request))

        page.unload(leave)
    page.queue(max_size=WAITING_REQUESTS, default_concurrency_limit=1, api_open=False)
    return page
