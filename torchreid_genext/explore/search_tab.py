"""The tab that searches: a query, a chain by controls, and the ranked list with its reasons."""

from __future__ import annotations

from typing import Any

from torchreid_genext.explore import page
from torchreid_genext.explore.chains import Controls
from torchreid_genext.explore.wiring import (
    FAULTS,
    HEAVY,
    SHOWN,
    Chosen,
    Explorer,
    chosen_by,
    listening,
    others,
    people,
    told,
    upload,
)
from torchreid_genext.retrieval.chain import Chain
from torchreid_genext.retrieval.steps.nfc import NEIGHBOURS

__all__ = ["SearchTab"]

_NOBODY = "Nobody is chosen yet: pick a query, or send a crop of your own."


class SearchTab:
    """Builds and wires the tab inside the block that is open.

    Args:
        gr: Gradio.
        explorer: answers.

    Attributes:
        queries: component of the queries to choose from.
        switches: components of `Controls.possible`, by its names.
    """

    def __init__(self, gr: Any, explorer: Explorer) -> None:
        self.gr, self.explorer = gr, explorer
        self.chosen, self.seed = gr.State(None), gr.State(0)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                self.queries = people(gr, "Query")
                self.more = gr.Button("Other people", size="sm")
                self.upload = upload(gr)
                self._add_controls()
            with gr.Column(scale=3, min_width=420):
                self.result = gr.HTML(page.notice(_NOBODY), elem_id="search-result")
        self._wire()

    def _add_controls(self) -> None:
        gr, usual = self.gr, Controls()
        gr.HTML('<h2 class="gx-label">Chain</h2>')
        cameras = gr.Checkbox(usual.cameras, label="camera_norm: take out what each camera does")
        tracklets = gr.Checkbox(usual.tracklets, label="tracklets: merge moments of one camera")
        nfc = gr.Checkbox(usual.nfc, label="nfc: average with mutual neighbours")
        k1 = gr.Slider(1, 20, usual.k1, step=1, label="k1, neighbours", elem_classes="gx-constant")
        k2 = gr.Slider(1, 20, usual.k2, step=1, label="k2, rank in return", elem_classes="gx-constant")
        neighbours = gr.Dropdown(
            [*NEIGHBOURS], value=usual.neighbours, label="who can be one", elem_classes="gx-constant"
        )
        timed = gr.Checkbox(usual.time, label="st: let time join the distance")
        weight = gr.Slider(
            0.0, 0.5, usual.weight, step=0.01, label="weight of time", elem_classes="gx-constant"
        )
        rerank = gr.Checkbox(usual.rerank, label="rerank: by k-reciprocal neighbours")
        reciprocal = gr.Slider(1, 50, usual.rerank_k1, step=1, label="k1", elem_classes="gx-constant")
        self.chain = gr.Textbox(
            usual.chain().name, label="as text, to be changed, too; Enter applies it", max_lines=3
        )
        self.top = gr.Slider(5, 40, 14, step=1, label="length of the list")
        self.switches = {"cameras": cameras, "tracklets": tracklets, "time": timed}
        self.controls = [cameras, tracklets, nfc, k1, k2, neighbours, timed, weight, rerank, reciprocal]

    @property
    def first(self) -> tuple[Any, ...]:
        """A search to begin with, as listeners take it."""
        return self._begin, [self.chosen, self.chain, self.top], [self.chosen, self.result]

    def _begin(self, chosen: Chosen | None, chain: str, top: int) -> tuple[Chosen | None, str]:
        searcher = self.explorer.searcher
        try:
            row = searcher.telling(Controls().chain(), SHOWN)[0]
        except FAULTS:
            return None, ""  # which is told where people would be
        return (
            self._choose({"row": row}, chain, top)
            if chosen is None
            else (chosen, self._show(chosen, chain, top))
        )

    def _wire(self) -> None:
        gr, asked = self.gr, [self.chosen, self.chain, self.top]
        for source, event in ((self.queries, "picked"), (self.upload, "sent")):
            getattr(source, event)(
                listening(gr, self._choose), [self.chain, self.top], [self.chosen, self.result], **HEAVY
            )  # fmt: skip
        for control in self.controls:
            event = control.release if isinstance(control, gr.Slider) else control.input
            event(
                self._compose, [*self.controls, *asked], [self.chain, self.result],
                **HEAVY,
            )  # fmt: skip
        gr.on(
            [self.chain.submit, self.top.release], told(self._show), asked, self.result,
            **HEAVY,
        )  # fmt: skip
        self.more.click(self._others, [self.seed, self.chosen], [self.seed, self.queries], **HEAVY)

    def _choose(self, event: dict[str, Any], chain: str, top: int) -> tuple[Chosen | None, str]:
        try:
            chosen = chosen_by(self.explorer, event)
        except (ValueError, OSError) as error:
            return None, page.notice(str(error), "error")
        return chosen, told(self._show)(chosen, chain, top)

    def _compose(self, *values: Any) -> tuple[str, str]:
        controls, (chosen, chain, top) = values[: len(self.controls)], values[len(self.controls) :]
        try:
            chain = Controls(*controls).chain().name
        except ValueError as error:
            return chain, page.notice(str(error), "error")
        return chain, told(self._show)(chosen, chain, top)

    def _show(self, chosen: Chosen | None, chain: str, top: int) -> str:
        if chosen is None:
            return page.notice(_NOBODY)
        chain, searcher = Chain.parse(chain), self.explorer.searcher
        if chosen.row < 0:
            return page.answer(searcher.search_image(chosen.image, chain, top=int(top)), chosen.image)
        return page.answer(searcher.search(chosen.row, chain, top=int(top)))

    def _others(self, seed: int, chosen: Chosen | None) -> tuple[int, str]:
        paths = self.explorer.searcher.sets.query.paths
        row = chosen.row if chosen else None
        return seed + 1, page.picker(paths, others(self.explorer, seed + 1), row)
