"""The tab of identity codes: other noises, a way between two people, traits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from torchreid_genext.explore import page
from torchreid_genext.explore.identity import TRAITS, Person
from torchreid_genext.explore.wiring import (
    FAULTS,
    HEAVY,
    Explorer,
    chosen_by,
    listening,
    people,
    told,
    upload,
)

__all__ = ["IdentityTab"]

_AMOUNTS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
_NOISES, _WAY = 6, 8  # pictures
_BEGIN = "Choose a person. A code says who it is, a noise all the rest; both together are the picture."


@dataclass(frozen=True)
class Shown:
    """Somebody, and the picture in which they were found, if there is one."""

    person: Person
    image: Image.Image | None = None


class IdentityTab:
    """Builds and wires the tab inside the block that is open; arguments as of `SearchTab`."""

    def __init__(self, gr: Any, explorer: Explorer) -> None:
        self.gr, self.explorer = gr, explorer
        self.one, self.two, self.imagined = gr.State(None), gr.State(None), gr.State(0)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                self.people = people(gr, "Person")
                self.upload = upload(gr)
                self.imagine = gr.Button("Somebody who does not exist", size="sm")
                self.goals = people(gr, "Way to")
                self.seed = gr.Slider(0, 99, 0, step=1, label="other noises, from")
                self.stretched = gr.Checkbox(True, label="give codes the length of those of the training")
                self.arc = gr.Checkbox(False, label="way along the arc, not the straight line")
                self.trait = gr.Dropdown([*TRAITS], value=[*TRAITS][0], label="Trait")
            with gr.Column(scale=3, min_width=420):
                self.noises = gr.HTML(page.notice(_BEGIN), elem_id="noises")
                self.way = gr.HTML(elem_id="way")
                self.traits = gr.HTML(elem_id="traits")
        self._wire()

    def _wire(self) -> None:
        gr, one, two = self.gr, [self.one, self.stretched], [self.two, self.stretched]
        noises = told(self._noises), [self.one, self.seed], self.noises
        way = told(self._way), [self.one, self.two, self.arc], self.way
        traits = told(self._traits), [self.one, self.trait], self.traits
        for event in (
            self.people.picked(listening(gr, self._find), one, self.one, **HEAVY),
            self.upload.sent(listening(gr, self._find), one, self.one, **HEAVY),
            self.imagine.click(self._imagine, self.imagined, [self.imagined, self.one], **HEAVY),
        ):
            event.then(*noises, **HEAVY).then(*way, **HEAVY).then(*traits, **HEAVY)
        self.goals.picked(listening(gr, self._find), two, self.two, **HEAVY).then(*way, **HEAVY)
        self.seed.release(*noises, **HEAVY)
        self.arc.input(*way, **HEAVY)
        self.trait.input(*traits, **HEAVY)

    def _find(self, event: dict[str, Any], before: Any, stretched: bool) -> Shown | str:
        """Who was chosen, or why nobody was."""
        try:
            image = chosen_by(self.explorer, event).image
            return Shown(self.explorer.coder().person(image, stretched=bool(stretched)), image)
        except FAULTS as error:
            return str(error)

    def _imagine(self, seed: int) -> tuple[int, Shown | str]:
        try:
            return seed + 1, Shown(self.explorer.coder().imagined(seed=seed))
        except FAULTS as error:
            return seed, str(error)

    def _noises(self, one: Shown | str | None, seed: int) -> str:
        if not isinstance(one, Shown):
            return page.notice(one or _BEGIN, "error" if one else "notice")
        made = self.explorer.coder().noises(one.person, _NOISES, seed=int(seed))
        words = ["its own noise", *(f"noise {number}" for number in range(1, _NOISES + 1))]
        pictures = [("the picture", one.image)] * (one.image is not None) + [*zip(words, made)]
        title = "The same code under its own noise, and under others"
        return page.code_of(one.person.code.tolist()) + page.row_of_pictures(title, pictures)

    def _way(self, one: Shown | str | None, two: Shown | str | None, arc: bool) -> str:
        if not (isinstance(one, Shown) and isinstance(two, Shown)):
            return page.notice(two, "error") if isinstance(two, str) else ""
        made = self.explorer.coder().way(one.person, two.person, _WAY, arc=bool(arc))
        shares = [f"{100 * place / (_WAY - 1):.0f} %" for place in range(_WAY)]
        return page.row_of_pictures("From this code to the other's, under the same noise", zip(shares, made))

    def _traits(self, one: Shown | str | None, trait: str) -> str:
        if not isinstance(one, Shown):
            return ""
        made = self.explorer.coder().trait(one.person, trait, _AMOUNTS)
        words = [f"{amount:+.1f}" if amount else "as is" for amount in _AMOUNTS]
        return page.row_of_pictures(f"Less and more of: {trait}", zip(words, made))
