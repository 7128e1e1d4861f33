from PIL import Image

from rasterloom.report.contact_sheet import Row, contact_sheet


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
