"""The page: three tabs in Gradio, on this machine alone, which asks no other."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchreid_genext.data.poses import JOINTS
from torchreid_genext.data.poses.datasets import read_dataset_poses
from torchreid_genext.explore import page
from torchreid_genext.explore.chains import Controls
from torchreid_genext.explore.guard import LOOPBACK, Guard
from torchreid_genext.explore.identity import Coder
from torchreid_genext.explore.identity_tab import IdentityTab
from torchreid_genext.explore.poses import Poser
from torchreid_genext.explore.poses_tab import PosesTab
from torchreid_genext.explore.search import Searcher
from torchreid_genext.explore.search_tab import SearchTab
from torchreid_genext.explore.wiring import FAULTS, HEAVY, SHOWN, Explorer

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = ["blocks", "explorer_of", "gradio", "launch"]

_WAITING = 16  # requests; further ones are told to come later
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif")
_MONO = ("ui-monospace", "Consolas", "Liberation Mono", "monospace")


def gradio() -> Any:
    """Gradio, which only this page needs.

    Raises:
        ImportError: if it is missing; says how to install it.
    """
    try:
        import gradio

        return gradio
    except ModuleNotFoundError as error:
        cure = "install it with `pip install 'torchreid_genext[app]'`"
        raise ImportError(f"the page needs the module '{error.name}', which is missing; {cure}") from error


def explorer_of(
    cfg: CfgNode, searcher: Searcher, *, dataset: str, identity: str | Path, title: str
) -> Explorer:
    """What the page computes with.

    Args:
        cfg: the whole configuration.
        searcher: of query and gallery.
        dataset: whose joints are known; empty for folders, of which none are.
        identity: folder of generator, inverter and prior of identity codes.
        title: what is explored.
    """

    @functools.cache
    def joints() -> dict[str, np.ndarray]:
        return read_dataset_poses(dataset, cfg.data.root, cfg.genext.joints) if dataset else {}

    @functools.cache
    def coder() -> Coder:
        query = searcher.sets.query
        known = searcher.sets.protocol is not None
        return Coder(identity, query.paths, query.pids.tolist() if known else range(len(query)))

    nowhere = np.full((len(JOINTS), 2), -1.0)
    poser = Poser(cfg, lambda path: joints().get(Path(path).name, nowhere))
    return Explorer(cfg, searcher, poser, coder, title)


def blocks(explorer: Explorer) -> Any:
    """The page, wired, not yet launched."""
    gr = gradio()
    with gr.Blocks(title="torchreid-genext explore", analytics_enabled=False, fill_width=True) as made:
        gr.HTML(page.intro(explorer.title))
        with gr.Tabs():
            with gr.Tab("Search", id="search"):
                search = SearchTab(gr, explorer)
            with gr.Tab("Poses", id="poses"):
                poses = PosesTab(gr, explorer)
            with gr.Tab("Identity", id="identity"):
                identity = IdentityTab(gr, explorer)
        pickers = [search.queries, poses.people, identity.people, identity.goals]
        switches = [*search.switches.values()]
        begin = functools.partial(_begin, gr, explorer, len(pickers), [*search.switches])
        made.load(begin, None, [*pickers, *switches], **HEAVY).then(*search.first, **HEAVY)
    return made.queue(max_size=_WAITING, api_open=False)


def _begin(gr: Any, explorer: Explorer, pickers: int, switches: list[str]) -> list[Any]:
    """People to choose from, and which switches the data allow."""
    searcher = explorer.searcher
    try:
        rows = searcher.telling(Controls().chain(), SHOWN)
    except FAULTS as error:
        return [page.notice(str(error), "error")] * pickers + [gr.skip()] * len(switches)
    possible = Controls.possible(searcher.known)
    known = [gr.skip() if possible[name] else gr.update(interactive=False, value=False) for name in switches]
    return [page.picker(searcher.sets.query.paths, rows)] * pickers + known


def launch(explorer: Explorer, *, host: str = "127.0.0.1", port: int | None = None, wait: bool = True) -> Any:
    """Serve the page.

    Args:
        explorer: answers.
        host: address to listen at; others than the loopback's let others in.
        port: None takes a free one from 7860 on.
        wait: until somebody stops it.

    Returns:
        The page, launched, with its address as ``local_url``.

    Raises:
        ImportError: if Gradio is missing.
        OSError: if there is no free port.
    """
    gr, made = gradio(), blocks(explorer)
    hosts = LOOPBACK if host in (*LOOPBACK, "::1") else ()
    guard = (Guard, (), {"hosts": hosts})  # as Starlette takes middleware
    made.launch(
        server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=not wait,
        ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False, footer_links=[],
        theme=_theme(gr), css=page.asset("page.css"),
        app_kwargs={"middleware": [guard], "docs_url": None, "redoc_url": None},
    )  # fmt: skip
    return made


def _theme(gr: Any) -> Any:
    """Fonts of the system, so that none is fetched."""
    return gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONO)
