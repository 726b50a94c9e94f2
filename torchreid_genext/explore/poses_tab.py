"""The tab that poses people: standard poses, or a skeleton that is dragged; any generator."""

from __future__ import annotations

import json
from typing import Any

from torchreid_genext.data.poses import COLOURS, JOINTS, LIMBS
from torchreid_genext.explore import page
from torchreid_genext.explore.poses import GENERATORS, read_skeleton, standard_skeletons
from torchreid_genext.explore.wiring import (
    HEAVY,
    Chosen,
    Explorer,
    chosen_by,
    listening,
    people,
    told,
    upload,
)

__all__ = ["PosesTab"]

_EDITOR = (
    '<div class="gx-skeleton"><svg viewBox="0 0 100 200" role="group" aria-label="skeleton"></svg>'
    "<p>Drag the joints, or move them by arrow keys. A double click hides or shows one.</p></div>"
)
_SIDES = {"1": "towards us", "2": "turned 45°", "3": "to the right", "4": "turned 135°", "5": "away",
          "6": "turned 225°", "7": "to the left", "8": "turned 315°"}  # fmt: skip


class PosesTab:
    """Builds and wires the tab inside the block that is open; arguments as of `SearchTab`."""

    def __init__(self, gr: Any, explorer: Explorer) -> None:
        self.gr, self.explorer = gr, explorer
        self.chosen, self.skeleton = gr.State(None), gr.State(standard_skeletons()["1"])
        with gr.Row():
            with gr.Column(scale=2, min_width=260):
                self.people = people(gr, "Person")
                self.upload = upload(gr)
            with gr.Column(scale=1, min_width=230):
                self._add_controls()
            with gr.Column(scale=3, min_width=420):
                words = "Choose a person, then draw all standard poses, or drag the skeleton."
                self.result = gr.HTML(page.notice(words), elem_id="poses-result")
        self._wire()

    def _add_controls(self) -> None:
        gr, names = self.gr, self.explorer.poser.names
        choices = [(GENERATORS[name], name) for name in names]
        self.generator = gr.Radio(choices, value=names[0] if names else None, label="Generator")
        sides = [(f"{name}, {side}", name) for name, side in _SIDES.items()]
        self.start = gr.Dropdown(sides, value="1", label="Skeleton, from pose")
        drawing = {
            "limbs": [list(limb) for limb in LIMBS],
            "colours": [list(colour) for colour in COLOURS],
            "names": [name.replace("_", " ") for name in JOINTS],
        }
        first = json.dumps(standard_skeletons()["1"])
        script = page.asset("skeleton.js")
        self.editor = gr.HTML(first, html_template=_EDITOR, js_on_load=script, elem_id="skeleton", **drawing)
        self.seed = gr.Slider(0, 99, 0, step=1, label="Noise (IPG)")
        self.one = gr.Button("Draw this skeleton", variant="primary", size="md")
        self.all = gr.Button("Draw all standard poses", size="md")

    def _wire(self) -> None:
        gr, how = self.gr, [self.chosen, self.generator, self.seed]
        one = [*how, self.skeleton]
        for source, event in ((self.people, "picked"), (self.upload, "sent")):
            getattr(source, event)(
                listening(gr, self._choose), [self.generator, self.seed, self.skeleton],
                [self.chosen, self.result], **HEAVY,
            )  # fmt: skip
        self.start.input(
            self._begin, self.start, [self.skeleton, self.editor], api_visibility="private"
        ).then(told(self._draw), one, self.result, **HEAVY)
        self.editor.moved(
            listening(gr, self._move), self.skeleton, self.skeleton, api_visibility="private"
        ).then(told(self._draw), one, self.result, **HEAVY)
        triggers = [self.one.click, self.generator.input, self.seed.release]
        gr.on(triggers, told(self._draw), one, self.result, **HEAVY)
        self.all.click(told(self._draw_all), how, self.result, **HEAVY)

    def _choose(self, event: dict[str, Any], *how: Any) -> tuple[Chosen | None, str]:
        try:
            chosen = chosen_by(self.explorer, event)
        except (ValueError, OSError) as error:
            return None, page.notice(str(error), "error")
        return chosen, told(self._draw)(chosen, *how)

    def _begin(self, name: str) -> tuple[Any, str]:
        skeleton = standard_skeletons()[name]
        return skeleton, json.dumps(skeleton)

    def _move(self, event: dict[str, Any], before: Any) -> Any:
        try:
            return read_skeleton(event.get("skeleton"))
        except ValueError:
            return before

    def _draw(self, chosen: Chosen | None, generator: str, seed: int, skeleton: Any) -> str:
        return self._drawn(chosen, generator, seed, {"this skeleton": skeleton})

    def _draw_all(self, chosen: Chosen | None, generator: str, seed: int) -> str:
        skeletons = standard_skeletons()
        return self._drawn(chosen, generator, seed, {_SIDES[name]: each for name, each in skeletons.items()})

    def _drawn(self, chosen: Chosen | None, generator: str, seed: int, skeletons: dict[str, Any]) -> str:
        if chosen is None:
            return page.notice("Choose a person first.")
        made = self.explorer.poser.draw(
            chosen.image, [*skeletons.values()], generator, path=chosen.path, seed=int(seed)
        )
        pictures = [("the person", chosen.image), *zip(skeletons, made)]
        return page.row_of_pictures(f"By {GENERATORS[generator]}", pictures)
