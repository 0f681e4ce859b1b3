"""What the page is worked with: settings, kept in the browser; a button that starts and one that stops."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from miniglm.decoding import Sampling
from miniglm.page.words import say

LABELS = ("turns", "beams", "length", "longest", "temperature", "penalty", "ngram")  # settings with a word of ours
CALM, LIVELY = (0, 1), (0.8, 0.9)  # temperature and top-p: the likeliest each time; bold, but not wild


def settings(temperature: float, top_p: float, prefix: str, turns: int | None = None) -> list[gr.Slider | gr.Number]:
    """The settings of a tab, not rendered, in the order of the arguments of speech.written.

    prefix: of their ids on the page. turns: how many earlier ones are shown; None for a tab that is no talk.
    """

    def slider(name, least, most, value, step, label):
        label, info = say(label) if label in LABELS else label, say(f"{name}_info")
        return gr.Slider(
            least, most, value, step=step, label=label, info=info, elem_id=f"{prefix}-{name}", render=False
        )

    earlier = [] if turns is None else [slider("turns", 0, 4, turns, 1, "turns")]
    seed = gr.Number(0, minimum=0, maximum=2**53 - 1, precision=0, label=say("seed"), info=say("seed_info"),
                     elem_id=f"{prefix}-seed", render=False)  # fmt: skip
    return [
        *earlier,
        slider("beams", 1, 8, 1, 1, "beams"),
        slider("length", -2, 2, 1, 0.5, "length"),
        slider("longest", 8, 512, 200, 8, "longest"),
        slider("temperature", 0, 1.5, temperature, 0.05, "temperature"),
        slider("top_k", 0, 200, 0, 1, "top-k"),
        slider("top_p", 0.05, 1, top_p, 0.05, "top-p"),
        slider("min_p", 0, 1, 0, 0.01, "min-p"),
        slider("penalty", 1, 2, 1, 0.05, "penalty"),
        slider("ngram", 0, 8, 0, 1, "ngram"),
        seed,
    ]


def remember(page: gr.Blocks, sliders: Sequence[gr.Slider | gr.Number]):
    """Keep the settings in the visitor's browser."""
    kept = gr.BrowserState(storage_key="miniglm-settings", secret="no secret: the same after a restart")
    alone: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
    page.load(None, [kept, *sliders], sliders, js="(kept, ...now) => kept?.length === now.length ? kept : now", **alone)
    gr.on([slider.change for slider in sliders], None, sliders, [kept], js="(...now) => [now]", **alone)


def clickable(attribute: str, event: str, first: str = "") -> str:
    """What an HTML of buttons does on a click of one, JavaScript.

    It triggers an event that has what stands in the button's data-ATTRIBUTE. first: what is called with that before.
    """
    return f"""element.addEventListener("click", click => {{
        const value = click.target.closest("[data-{attribute}]")?.dataset.{attribute};
        if (value !== undefined) {{ {first and f"{first}(value);"} trigger("{event}", {{{attribute}: value}}) }}
    }})"""


def sampling_of(temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram_size, seed) -> Sampling:
    """The last settings' values as a Sampling."""
    seed = int(seed or 0) or None
    return Sampling(temperature, int(top_k), top_p, min_p, repetition_penalty, int(no_repeat_ngram_size), seed)


def render(sliders: Sequence[gr.Slider | gr.Number]):
    """Show the settings of a tab: the temperature and top-p in sight, the others folded."""
    in_sight = sliders[-7], sliders[-5]
    with gr.Row():
        for slider in in_sight:
            slider.render()
    with gr.Accordion(say("more"), open=False, elem_classes="more"), gr.Row():
        for slider in sliders:
            if slider not in in_sight:
                slider.render()


def buttons(function: Callable, inputs: Sequence, outputs: Sequence, box: gr.Textbox, prefix: str, *more):
    """A button that starts an action and one that stops it; Enter in `box` starts it too.

    more: (an event of a component, its function) that runs in the same place.
    """
    with gr.Row(elem_classes="buttons"):
        start = gr.Button(say("go"), variant="primary", elem_id=f"{prefix}-go")
        stop = gr.Button(say("stop"), elem_id=f"{prefix}-stop")
    running = [gr.on([start.click, box.submit], function, inputs, outputs, api_visibility="private")]
    running += [event(other, inputs, outputs, api_visibility="private", cancels=running) for event, other in more]
    stop.click(None, cancels=running, api_visibility="private")
