"""Folders of users: who is on which image, told by sub-folders, a CSV or names; and what is refused."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchreid_genext import compat
from torchreid_genext.data.folders.names import FolderName, folder_name
from torchreid_genext.data.folders.reading import Folder, read_folder
from torchreid_genext.data.images.reading import open_image
from torchreid_genext.data.store import ImageStore
from torchreid_genext.data.store.camstyle_folder import style_pose


def draw(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(file))).integers(0, 255, (16, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def folder(root: Path, *files: str) -> Path:
    for file in files:
        draw(root / file)
    return root


def read(root: Path, options: str = "") -> Folder:
    return read_folder(FolderName.parse(f"folder:{root}{options}"))


def told(records: list[tuple[str, int, int]], root: Path) -> list[tuple[str, int, int]]:
    return [(Path(path).relative_to(root).as_posix(), pid, camid) for path, pid, camid in records]


def test_sub_folders_are_splits_and_people_of_any_name_and_format(tmp_path: Path) -> None:
    root = folder(
        tmp_path, "Query/Zoë/1.JPG", "query.txt/x.png", "gallery/Zoë/a/1.webp", "gallery/x 3/1.bmp", "train/q/1.png",
    )  # fmt: skip
    (root / "gallery/Zoë/notes.txt").write_text("none")
    found = read(root)
    assert told(found.query, root) == [("Query/Zoë/1.JPG", 1, 0)]
    assert told(found.gallery, root) == [("gallery/Zoë/a/1.webp", 1, 1), ("gallery/x 3/1.bmp", 3, 1)]
    assert told(found.train, root) == [("train/q/1.png", 0, 0)]
    assert not found.has_cameras and not found.frames


def test_people_called_by_numbers_keep_them_and_minus_one_is_junk(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        "query/0007/1.png",
        "gallery/0007/2.png",
        "gallery/-1/1.png",
        "train/-1/1.png",
        "train/5/1.png",
    )
    found = read(root)
    assert [pid for _, pid, _ in found.query + found.gallery] == [7, -1, 7]
    assert [pid for _, pid, _ in found.train] == [0]


def test_names_that_would_be_one_number_stay_apart(tmp_path: Path) -> None:
    found = read(folder(tmp_path, "query/1/1.png", "gallery/1/2.png", "gallery/01/2.png"))
    assert len({pid for _, pid, _ in found.gallery}) == 2


def test_one_folder_gives_a_query_of_each_person_with_a_match(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path, "a/1.png", "a/2.png", "b/1.png", "c/1.png", "c/2.png", "c/3.png")
    found = read(root)
    assert [name for name, *_ in told(found.query, root)] == ["a/1.png", "c/1.png"]
    assert [name for name, *_ in told(found.gallery, root)] == ["a/2.png", "b/1.png", "c/2.png", "c/3.png"]
    assert len(found.train) == 6 and "has no splits" in caplog.text


def test_a_pattern_tells_person_camera_and_time_from_the_path_below_the_split(tmp_path: Path) -> None:
    root = folder(
        tmp_path, "query/cam_a/p7_000012.png", "gallery/cam_b/p7_000100.png", "gallery/cam_a/p9_000200.png"
    )
    found = read(root, r"?pattern=cam_(?P<camid>\w)/p(?P<pid>\d+)_(?P<frame>\d+)")
    assert [record[1:] for record in found.query + found.gallery] == [(7, 1), (9, 1), (7, 2)]
    assert found.has_cameras and sorted(found.frames.values()) == [12, 100, 200]


def test_splits_may_be_anywhere_and_links_are_followed(tmp_path: Path) -> None:
    folder(tmp_path / "far", "p/1.png")
    folder(tmp_path / "near", "p/1.png", "q/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "far")
    name = folder_name(query=str(tmp_path / "link"), gallery=str(tmp_path / "near"))
    found = read_folder(FolderName.parse(name))
    assert [pid for _, pid, _ in found.query] == [1] and [pid for _, pid, _ in found.gallery] == [1, 2]
    assert FolderName.parse(name).root == tmp_path


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_tells_everything(tmp_path: Path, mark: str, delimiter: str) -> None:
    root = folder(tmp_path, "x/1.png", "y/1.png", "t.png")
    rows = [
        "path,pid,camid,frame,split",
        "x/1.png,Jo,3,10,query",
        "y/1.png,Jo,5,20,gallery",
        "t.png,Al,3,0,train",
        "",
    ]
    (root / "mine.csv").write_text(mark + "\n".join(rows).replace(",", delimiter), encoding="utf-8")
    (root / "poses.csv").write_text("name: keypoints\n")
    found = read(root)
    assert told(found.query, root) == [("x/1.png", 2, 3)] and told(found.gallery, root) == [("y/1.png", 2, 5)]
    assert told(found.train, root) == [("t.png", 0, 3)] and set(found.frames.values()) == {0, 10, 20}


def test_a_table_without_splits_has_a_query_of_each_person_and_camera(tmp_path: Path) -> None:
    root = folder(tmp_path, *(f"{n}.png" for n in range(5)))
    lines = [f"{n}.png,p,{camera}" for n, camera in enumerate("aabbb")]
    (root / "labels.csv").write_text("\n".join(["path,pid,camid", *lines]))
    found = read(root)
    assert told(found.query, root) == [("0.png", 1, 1), ("2.png", 1, 2)] and len(found.gallery) == 3


FILES = ("query/a/1.png", "gallery/a/2.png")
HOSTILE = {
    "no such folder": ((), "", "", r"expected a folder of images, got .*, which is none"),
    "empty folder": (("",), "", "", "expected images .* got none"),
    "empty split": ((*FILES, "train/"), "", "", r"expected images .* in .*train, got none"),
    "query alone": (("query/a/1.png",), "", "", "no gallery folder; add it"),
    "gallery alone": (("gallery/a/1.png",), "", "", "no query folder; add it"),
    "two train folders": (
        (*FILES, "train/a/1.png", "bounding_box_train/a/1.png"),
        "",
        "",
        "one folder of the train",
    ),
    "image without a person": (
        (*FILES, "gallery/3.png"),
        "",
        "",
        r"expected a folder for each person, got .*3\.png.*labels.csv",
    ),
    "flat": (("1.png",), "", "", "expected a folder for each person"),
    "no match of the pattern": (
        FILES,
        r"?pattern=(?P<pid>\d{4})",
        "",
        r"expected names that the pattern .* got .*1\.png",
    ),
    "empty person": (FILES, r"?pattern=(?P<pid>x*)", "", "expected names that the pattern"),
    "pattern without pid": (FILES, r"?pattern=\d", "", "with the group pid"),
    "pattern with other groups": (
        FILES,
        r"?pattern=(?P<pid>.)(?P<cam>.)",
        "",
        "with the group pid, and camid",
    ),
    "broken pattern": (FILES, "?pattern=(", "", "a regular expression, got"),
    "frame that is none": (
        FILES,
        r"?pattern=(?P<pid>\w+)/(?P<frame>\S+)",
        "",
        "whole number from 0, got '1.png' of",
    ),
    "half of the cameras": (
        FILES,
        r"?pattern=(?P<pid>a)/(?P<camid>1)?",
        "",
        "expected a camera of all images",
    ),
    "one image twice": (FILES, "?query=query&gallery=query", "", "which would find itself"),
    "option twice": (FILES, "?query=a&query=b&gallery=c", "", "expected folder:PATH"),
    "query without gallery": (FILES, "?query=query", "", "expected both query and gallery"),
    "table: no pid": (
        FILES,
        "",
        "path,who\nquery/a/1.png,1",
        "columns path and pid in .*labels.csv, got path, who",
    ),
    "table: empty": (FILES, "", "", None),
    "table: no rows": (FILES, "", "path,pid\n", "expected images in .*labels.csv, got none"),
    "table: short line": (FILES, "", "path,pid\nquery/a/1.png", "2 values in line 2 of .*labels.csv, got 1"),
    "table: no such image": (
        FILES,
        "",
        "path,pid\nquery/a/9.png,1",
        "an image that exists in line 2 .*9.png",
    ),
    "table: no image": (FILES, "", "path,pid\nlabels.csv,1", "an image .* in line 2 .*'labels.csv'"),
    "table: image twice": (FILES, "", "path,pid\nquery/a/1.png,1\ngallery/../query/a/1.png,2", "again in line 3"),
    "table: unknown split": (
        FILES,
        "",
        "path,pid,split\nquery/a/1.png,1,test",
        "train, query, gallery in line 2 .*'test'",
    ),
    "table: no person": (FILES, "", "path,pid\nquery/a/1.png,", "expected a pid in line 2"),
    "table: negative frame": (
        FILES,
        "",
        "path,pid,frame\nquery/a/1.png,1,-5",
        "whole number from 0 in line 2 .*'-5'",
    ),
    "table: column twice": (FILES, "", "path,pid,pid\nquery/a/1.png,1,2", "each column once"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_folders_are_refused_by_file_rule_and_cure(tmp_path: Path, case: str) -> None:
    files, options, table, message = HOSTILE[case]
    root = tmp_path / "mine"
    for file in files:
        draw(root / file) if file.endswith(".png") else (root / file).mkdir(parents=True)
    if case.startswith("table"):
        (root / "labels.csv").write_text(table)
    with pytest.raises(ValueError, match=message or "columns path and pid in .*labels.csv, got none"):
        read(root, options)


def test_a_table_that_is_no_text_names_the_cure(tmp_path: Path) -> None:
    root = folder(tmp_path, *FILES)
    (root / "labels.csv").write_bytes("path,pid\nJörg.png,1".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8 in .*labels.csv.*save it as UTF-8"):
        read(root)


def test_two_tables_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, *FILES)
    for name in ("a", "b"):
        (root / f"{name}.csv").write_text("path,pid\nquery/a/1.png,1")
    with pytest.raises(ValueError, match="one CSV with path and pid .* a.csv and b.csv"):
        read(root)


@pytest.mark.usefixtures("registered")
class TestAsADataSet:
    def test_a_test_only_folder_opens_and_pickles(self, tmp_path: Path) -> None:
        root = folder(tmp_path, *FILES)
        dataset = compat.init_image_dataset(f"folder:{root}", root="elsewhere", verbose=False)
        assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (0, 1, 1)
        assert compat.image_dataset_folder(f"folder:{root}", "elsewhere") == root
        again = pickle.loads(pickle.dumps(dataset))
        assert again.query == dataset.query and type(again) is type(dataset)

    def test_nothing_is_left_out_by_the_host_where_cameras_are_unknown(self, tmp_path: Path) -> None:
        dataset = compat.init_image_dataset(f"folder:{folder(tmp_path, *FILES)}", verbose=False)
        assert dataset.query[0][2] != dataset.gallery[0][2]

    def test_training_without_images_is_refused(self, tmp_path: Path) -> None:
        name = f"folder:{folder(tmp_path, *FILES)}"
        with pytest.raises(
            ValueError, match=f"images for training in {re.escape(name)}, got none; add a train folder"
        ):
            compat.image_data_manager(root="", sources=[name], targets=[name])

    def test_generated_images_join_by_the_second_name(self, tmp_path: Path) -> None:
        name = f"folder:{folder(tmp_path / 'mine', *FILES, 'train/a/1.png')}"
        with pytest.raises(ValueError, match="mine_generated"):
            compat.init_image_dataset(f"{name}_ipg", verbose=False)

    @pytest.mark.parametrize("kind", ["ipg", "camstyle"])
    def test_pictures_of_a_store_join_though_names_repeat(self, tmp_path: Path, kind: str) -> None:
        root = folder(tmp_path / "mine", *FILES, "train/a/1.png", "train/b/1.png", "train/b/2.png")
        store = ImageStore.create(tmp_path / "mine_generated" / kind)
        pose = {"ipg": "pose1", "camstyle": style_pose(1)}[kind]
        for number, name in enumerate(("a/1.png", "b/1.png")):
            request = {"split": "train", "reference": name, "pose": pose, "provenance": {"generator": kind}}
            store.add(Image.new("RGB", (8, 16), (number, 0, 0)), **request)
        dataset = compat.init_image_dataset(f"folder:{root}_{kind}", verbose=False)
        reds = [Image.open(path).getpixel((0, 0))[0] for path, *_ in dataset.train[3:]]
        assert list(zip(reds, [pid for _, pid, *_ in dataset.train[3:]])) == [(0, 0), (1, 1)]

    def test_a_folder_that_is_called_like_a_kind_is_itself(self, tmp_path: Path) -> None:
        name = f"folder:{folder(tmp_path / 'mine_ipg', *FILES)}"
        assert len(compat.init_image_dataset(name, verbose=False).query) == 1

    def test_names_are_relative_to_the_working_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for place in ("one", "two"):
            folder(tmp_path / place / "mine", *FILES)
            monkeypatch.chdir(tmp_path / place)
            found = compat.init_image_dataset("folder:mine", verbose=False).query[0][0]
            assert Path(found).is_relative_to(tmp_path / place)

    def test_unregistering_takes_them_away(self, tmp_path: Path) -> None:
        import torchreid_genext as genext

        name = f"folder:{folder(tmp_path, *FILES)}"
        compat.init_image_dataset(name, verbose=False)
        genext.unregister()
        assert name not in compat.image_dataset_names()
        with pytest.raises(ValueError, match="unknown image data set"):
            compat.init_image_dataset(name, verbose=False)
        genext.register()


def test_whoever_is_seen_once_by_each_camera_is_in_the_gallery_too(tmp_path: Path) -> None:
    """As in sets of two images each; without splits the last image of a person is no query."""
    root = folder(tmp_path, *(f"{person}_c{camera}.png" for person in (1, 2) for camera in (1, 2, 3)), "3_c1.png")
    found = read(root, r"?pattern=(?P<pid>\d)_c(?P<camid>\d)")
    assert told(found.query, root) == [(f"{p}_c{c}.png", p, c) for p in (1, 2) for c in (1, 2)]
    assert told(found.gallery, root) == [("1_c3.png", 1, 3), ("2_c3.png", 2, 3), ("3_c1.png", 3, 1)]


def test_splits_of_a_table_may_have_large_letters_and_images_any_usual_format(tmp_path: Path) -> None:
    formats = ("tif", "TIFF", "PNG", "ppm", "pgm", "jfif")
    for number, ending in enumerate(formats):
        image = Image.new("L" if ending == "pgm" else "RGB", (4, 8), 40 * number)
        image.save(tmp_path / f"{number}.{ending}", format={"jfif": "JPEG", "pgm": "PPM", "tif": "TIFF"}.get(ending, ending.upper()))
    lines = [f"{number}.{ending},{number // 2},{('Query', 'GALLERY')[number % 2]}" for number, ending in enumerate(formats)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,pid,split", *lines]))
    found = read(tmp_path)
    assert len(found.query) == len(found.gallery) == 3
    for path, _, _ in (*found.query, *found.gallery):
        level = 40 * int(Path(path).name[0])
        assert abs(int(np.array(open_image(path))[0, 0, 0]) - level) < 4, path
