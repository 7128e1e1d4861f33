import math

from PIL import Image

from rasterloom.report.contact_sheet import MOST_LINES, WIDE, Row, contact_sheet
from rasterloom.report.label_text import LINE, text_width, wrapped


def test_a_sheet_without_rows_is_empty():
    assert contact_sheet([]).getcolors() == [(200 * 8, (255, 255, 255))]


def test_images_stand_in_columns_below_their_labels():
    red, blue = (Image.new("RGB", (10, 6), colour) for colour in ("red", "blue"))
    sheet = contact_sheet([Row(("one",), (red, blue)), Row(("two", "none"), (blue, None))])
    assert sheet.size == (10 + 8 + 10, 2 * (22 + 6 + 8))
    assert [sheet.getpixel(at) for at in ((0, 22), (18, 22), (0, 58))] == [
        (255, 0, 0),
        (0, 0, 255),
        (0, 0, 255),
    ]


def test_the_label_of_a_row_is_broken_into_lines_and_hides_behind_no_image():
    image = Image.new("RGB", (10, 6), "red")
    label = "a long prompt in several words " * 6
    sheet = contact_sheet([Row((label,), (image,)), Row(("short",), (image,))])
    lines = wrapped(label, WIDE, MOST_LINES)
    assert len(lines) > 1
    assert sheet.size == (
        math.ceil(max(map(text_width, lines))),
        22 + LINE * (len(lines) - 1) + 6 + 8 + 22 + 6 + 8,
    )
    top = 22 + LINE * (len(lines) - 1)
    assert sheet.getpixel((0, top)) == (255, 0, 0) != sheet.getpixel((0, top - 1))
