"""File names of Market-1501, DukeMTMC-reID, MSMT17 and SynthReID, and the clock behind them."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchreid_genext.data.filenames import (
    MARKET_SEQUENCES,
    SYNTHREID_SEQUENCES,
    Record,
    global_frame,
    global_frames,
    has_frames,
    parse,
    split_frame,
)


def test_folders_before_the_name_do_not_matter() -> None:
    path = Path("some") / "0009_c3s2_000001" / "0002_c1s1_000451_03.jpg"
    assert parse(path) == Record(str(path), pid=2, camid=0, sequence=1, frame=451)


def test_generated_name_keeps_the_record_of_its_source() -> None:
    assert parse("0002_c4s1_000451_03_fake_4to2.jpg").camid == 3


def test_cameras_and_sequences_may_have_two_digits() -> None:
    assert parse("0002_c12s10_000451_03.jpg") == Record("0002_c12s10_000451_03.jpg", 2, 11, 10, 451)
    assert parse("0005_c10_f0046985.jpg", "dukemtmcreid").camid == 9
    with pytest.raises(ValueError, match=r"expected a camera in 0\.\.5 of market1501, got 11"):
        global_frames(["0002_c12s1_000451_03.jpg"])


@pytest.mark.parametrize(
    "name", ["", "Thumbs.db", "002_c1s1_000451_03.jpg", "0002_c1_f0000451.jpg", "x_c1s1_1_1.jpg"]
)
def test_name_that_does_not_parse_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected a market1501 name such as 0002_c1s1_000451_03\.jpg"):
        parse(name)


def test_unknown_dataset_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="choose from market1501, dukemtmcreid, msmt17, synthreid"):
        parse("0002_c1s1_000451_03.jpg", "grid")


def test_msmt17_tells_the_part_of_the_day() -> None:
    names = ["0000_000_01_0113morning_0008_0.jpg", "0000_003_14_0113afternoon_0001_2.jpg"]
    morning, afternoon = (parse(name, "msmt17") for name in names)
    assert (morning.pid, morning.camid, afternoon.camid) == (0, 0, 13)
    assert global_frame(afternoon, "msmt17") - global_frame(morning, "msmt17") == 200  # two bins
    next_day = parse("0000_000_01_0114morning_0008_0.jpg", "msmt17")
    assert global_frame(next_day, "msmt17") - global_frame(morning, "msmt17") == 300


@pytest.mark.parametrize("day", ["0230", "1301", "0100", "0000"])
def test_a_day_that_does_not_exist_is_named(day: str) -> None:
    name = f"0000_000_01_{day}morning_0008_0.jpg"
    with pytest.raises(ValueError, match=f"expected a msmt17 name with month and day, got '{name}': "):
        parse(f"folder/{name}", "msmt17")


def test_frames_of_many_files_are_those_of_each() -> None:
    names = ["0002_c1s2_000451_03.jpg", "0002_c3s1_000001_00.jpg"]
    assert global_frames(names, "market1501") == [72681 + 451, 1]
    assert has_frames("market1501") and has_frames("synthreid_tiny") and not has_frames("grid")


def test_variants_of_synthreid_share_one_clock() -> None:
    record = parse("0002_c1s2_000451_03.jpg", "synthreid_full")
    assert global_frame(record, "synthreid_tiny") == SYNTHREID_SEQUENCES[0][0] + 451


@pytest.mark.parametrize("frame", [1, 75000, 75001, 150000, 150001, 449999, 450000])
@pytest.mark.parametrize("camid", range(6))
def test_split_frame_is_undone_by_global_frame(frame: int, camid: int) -> None:
    sequence, rest = split_frame(frame, camid)
    assert global_frame(Record("", 1, camid, sequence, rest), "synthreid") == frame
    assert 1 <= rest <= SYNTHREID_SEQUENCES[camid][sequence - 1]


@pytest.mark.parametrize("frame", [0, -5, 450001])
def test_frame_outside_the_recording_is_refused(frame: int) -> None:
    with pytest.raises(ValueError, match=rf"expected a frame in 1..450000, got {frame}"):
        split_frame(frame, 0)


def test_synthetic_cameras_stop_together() -> None:
    assert {sum(lengths) for lengths in SYNTHREID_SEQUENCES} == {450_000}


@pytest.mark.parametrize("record", [Record("", 1, 6, 1, 1), Record("", 1, -1, 1, 1)])
def test_unknown_camera_is_refused(record: Record) -> None:
    with pytest.raises(ValueError, match="expected a camera in 0..5"):
        global_frame(record)


@pytest.mark.parametrize("sequence", [0, 7])
def test_unknown_sequence_is_refused(sequence: int) -> None:
    with pytest.raises(ValueError, match=f"expected a sequence in 1..{len(MARKET_SEQUENCES[0])}"):
        global_frame(Record("", 1, 0, sequence, 1))
