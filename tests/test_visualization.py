"""Pictures: what they show is what was given, and nothing global changes."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from torchreid_genext import visualization
from torchreid_genext.visualization import (
    Bar,
    Hit,
    RankedQuery,
    Transition,
    chain_bars,
    density_histograms,
    embeddings,
    labelled_grid,
    ranked_lists,
    transition_histograms,
)


def texts(axes: matplotlib.axes.Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_bars_have_the_length_of_their_rates_and_the_first_is_the_baseline() -> None:
    bars = [Bar("base", 0.31, None, 0.6, None), Bar("nfc", 0.387, (0.38, 0.39), 0.603, (0.59, 0.61))]
    figure = chain_bars({"osnet": bars, "other": bars[:1]})
    assert len(figure.axes) == 4
    left = figure.axes[0]
    assert [patch.get_width() for patch in left.patches] == pytest.approx([31.0, 38.7])
    assert texts(left) == ["31.0", "38.7"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["base", "nfc"]
    assert left.yaxis_inverted(), "the first chain stands above"
    assert list(left.lines[0].get_xdata()) == pytest.approx([31.0, 31.0])
    assert list(left.lines[2].get_xdata()) == pytest.approx([38.0, 39.0])


def test_histograms_count_every_image_of_both_versions() -> None:
    generator = np.random.default_rng(0)
    before = {"query": generator.random(30), "gallery": generator.random(200)}
    after = {name: values / 2 for name, values in before.items()}
    figure = density_histograms(before, after, names=("base", "nfc"))
    for axes, name in zip(figure.axes, before):
        heights = [patch.get_height() for patch in axes.patches]
        assert sum(heights) == 2 * len(before[name])
        assert f"{before[name].mean():.3f}" in axes.get_legend().get_texts()[0].get_text()
        assert f"{after[name].mean():.3f}" in axes.get_legend().get_texts()[1].get_text()


def test_embedding_keeps_distances_of_features_that_lie_in_a_plane() -> None:
    generator = np.random.default_rng(0)
    plane, basis = generator.normal(size=(20, 2)), np.linalg.qr(generator.normal(size=(8, 2)))[0]
    pids, camids = np.repeat([3, 7], 5), np.tile([0, 1, 2, 3, 0], 2)
    figure = embeddings((plane @ basis.T)[:10], (plane @ basis.T)[10:], pids, camids, names=("base", "nfc"))
    shown = [np.concatenate([group.get_offsets() for group in axes.collections]) for axes in figure.axes]
    # Groups are drawn by person, then by camera.
    order = np.lexsort((camids, pids))
    for points, expected in zip(shown, (plane[:10][order], plane[10:][order])):
        given = np.linalg.norm(expected[:, None] - expected, axis=2)
        drawn = np.linalg.norm(points[:10, None] - points[:10], axis=2)
        np.testing.assert_allclose(drawn, given, atol=1e-9)
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


def test_embedding_is_the_same_in_every_run() -> None:
    features = np.random.default_rng(1).normal(size=(12, 5))
    figures = [
        embeddings(features, features, np.arange(12) % 3, np.arange(12) % 2, names=("a", "b"))
        for _ in range(2)
    ]
    places = [
        np.concatenate([group.get_offsets() for group in figure.axes[0].collections]) for figure in figures
    ]
    np.testing.assert_array_equal(*places)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.new("RGB", (64, 128), (200, 30, 30)).save(tmp_path / "person.png")
    return str(tmp_path / "person.png")


def test_ranked_lists_have_a_row_for_each_chain_and_borders_by_kind(picture: str) -> None:
    hits = [Hit(picture, kind, f"camera 1\n{kind}") for kind in ("match", "miss", "distractor")]
    query = RankedQuery(picture, "query, camera 2", [("base", hits), ("nfc", hits[:2])])
    figure = ranked_lists([query], title="repaired")
    assert len(figure.axes) == 8
    borders = [axes.spines["left"].get_edgecolor() for axes in figure.axes[1:4]]
    assert len(set(borders)) == 3 and borders[0] == figure.axes[5].spines["left"].get_edgecolor()
    assert [axes.get_ylabel() for axes in (figure.axes[0], figure.axes[4])] == ["base", "nfc"]
    assert figure.axes[2].get_xlabel() == "camera 1\nmiss"
    assert not figure.axes[7].axison, "the shorter list leaves its last cell empty"


def test_pictures_are_written_and_leave_the_settings_of_matplotlib_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    figure = chain_bars({"osnet": [Bar("base", 0.5, None, 0.5, None)]})
    figure.savefig(tmp_path / "bars.png")
    assert dict(matplotlib.rcParams) == before
    with Image.open(tmp_path / "bars.png") as image:
        assert image.width == 1500 and len(image.convert("L").getcolors()) > 10


def test_transitions_show_every_pair_with_its_bars_and_its_line() -> None:
    edges, counts = np.arange(-20, 21), np.zeros(40)
    counts[18:24] = 5
    panels = [Transition(f"1 to {camera}", edges, counts, counts / counts.sum()) for camera in range(2, 9)]
    figure = transition_histograms(panels, unit="frames", columns=3)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == [f"1 to {c} (30)" for c in range(2, 9)]
    for axes in shown:
        heights, places, _ = axes.patches[0].get_data()
        assert sum(heights) == 30 and min(places) >= -20 and max(places) <= 20
        assert sum(axes.lines[0].get_ydata()) == pytest.approx(30)


LONG = "camera_norm+tracklets+nfc(k1=3,k2=3,neighbours=cross_camera+spatiotemporal)+st+rerank"


def of_long_names(kind: str, picture: str) -> matplotlib.figure.Figure:
    values, names = np.random.default_rng(2).random((30, 4)), (LONG, LONG)
    if kind == "bars":
        return chain_bars({"osnet": [Bar(chain, 0.5, None, 0.6, None) for chain in ("l2", LONG, LONG, LONG)]})
    if kind == "histograms":
        version = {"query": values[0], "gallery": values[1]}
        return density_histograms(version, version, names=names)
    if kind == "embeddings":
        return embeddings(values, values, np.arange(30) % 3, np.arange(30) % 2, names=names)
    hits = [Hit(picture, "match", "camera 1\n0.5")] * 10
    query = RankedQuery(picture, "query, camera 2", [("l2", hits), (LONG, hits)])
    return ranked_lists([query], title=f"osnet: {LONG} has repaired rank-1 of 3 out of 30 queries")


def test_long_names_are_broken_at_their_joints() -> None:
    bars = [Bar(chain, 0.5, None, 0.5, None) for chain in (LONG, "camera_norm+nfc(neighbours=cross_camera)")]
    long, short = (label.get_text() for label in chain_bars({"osnet": bars}).axes[0].get_yticklabels())
    assert long.replace("\n", "") == LONG and all(line[-1] in "+,k" for line in long.splitlines())
    assert max(map(len, long.splitlines())) <= 40 and "\n" not in short


@pytest.mark.parametrize("kind", ("bars", "histograms", "embeddings", "lists"))
def test_long_names_of_chains_stay_inside_the_picture_and_apart(kind: str, picture: str) -> None:
    figure = of_long_names(kind, picture)
    figure.draw_without_rendering()
    names = [
        text
        for text in figure.findobj(matplotlib.text.Text)
        if "tracklets" in text.get_text() and text.get_visible()
    ]
    boxes = [
        box for text in names if (box := text.get_window_extent()).width > 1
    ]  # shared labels are drawn once
    assert len(boxes) >= 2 and all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :]), "two names on each other"


def test_labelled_grids_hold_all_words_inside() -> None:
    figure = labelled_grid(
        np.random.rand(2, 3, 3, 16, 8),
        rows=["original", "7 to 12, spherical"],
        columns=["a", "b", "c"],
        captions=["L1 0.1\nSSIM 0.5"] * 3,
        title="A title",
    )
    figure.draw_without_rendering()
    words = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
    assert {"original", "7 to 12, spherical", "a", "c", "A title"} <= {t.get_text() for t in words}
    boxes = [t.get_window_extent() for t in words]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_a_single_set_and_a_single_direction_are_drawn() -> None:
    one = {"gallery": np.array([0.1, 0.2])}
    assert len(visualization.density_histograms(one, one, names=("a", "b")).axes) == 1
    features, labels = np.array([[1.0], [2.0], [4.0]]), np.array([1, 1, 2])
    visualization.embeddings(features, features, labels, labels, names=("a", "b"))


def test_nothing_to_draw_is_named() -> None:
    nothing, names = np.zeros((0, 4)), ("a", "b")
    for draw, what in (
        (lambda: visualization.chain_bars({"m": []}), "bars of m"),
        (lambda: visualization.density_histograms({}, {}, names=names), "sets of images"),
        (lambda: visualization.embeddings(nothing, nothing, nothing[:, 0], nothing[:, 0], names=names), "features"),
        (lambda: visualization.transition_histograms([], unit="frames"), "pairs of cameras"),
    ):
        with pytest.raises(ValueError, match=f"expected {what} to draw, got none"):
            draw()
