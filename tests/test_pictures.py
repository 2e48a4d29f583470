"""The pictures of the pages that are committed are those that `make pictures` makes."""

import pytest

from tests.pages import ROOT

pictures = pytest.importorskip("tests.pictures", reason="pillow is not installed")


def test_every_picture_is_committed_and_in_the_table():
    assert {path.stem for path in pictures.FOLDER.glob("*.png")} == {picture.name for picture in pictures.PICTURES}
    assert (pictures.FOLDER / "README.md").read_text(encoding="utf-8") == pictures.table()


def test_they_are_of_the_screens_that_they_say():
    for picture in pictures.PICTURES:
        with pictures.Image.open(pictures.FOLDER / f"{picture.name}.png") as image:
            screen = pictures.SCREENS[picture.screen]
            scale, margin = screen.get("device_scale_factor", 1), 2 * pictures.MARGIN * ("paper" in picture.screen)
            width, height = (scale * screen["viewport"][side] + margin for side in ("width", "height"))
        assert image.width == width, picture
        assert image.height >= height if picture.whole else image.height == height, picture


def test_they_are_small():
    assert sum(path.stat().st_size for path in pictures.FOLDER.glob("*.png")) < 3e6
    assert pictures.FOLDER.is_relative_to(ROOT / "reports")
