import base64
import io

from PIL import Image

from rasterloom.report.gallery import KEPT, THUMBNAIL, galleries, gallery_image, read_rows


def test_every_end_has_its_gallery(tables) -> None:
    kept, poor, twice = galleries(tables)
    assert (kept.reason, kept.rows, kept.shown) == ("kept", 47, KEPT)
    assert (poor.reason, poor.rows, poor.shown) == ("rule: quality < 9", 5, 5)
    assert {p.caption for p in poor.images} == {f"poor {i}" for i in range(5)}
    assert twice.rows == 2
    assert {(d.caption, k.caption) for d, k in twice.pairs} == {
        ("copy 0", "disc number 0"),
        ("copy 1", "disc number 1"),
    }


def test_the_sample_is_the_same_on_every_run(tables) -> None:
    first, again = (galleries(tables) for _ in range(2))
    assert first == again


def test_notes_give_size_and_scores(tables) -> None:
    kept = galleries(tables)[0]
    seen = next(p for p in kept.images if p.notes[0] == "240×96")
    assert seen.notes[1].startswith("quality ")
    assert max(seen.width, seen.height) == THUMBNAIL


def test_an_image_is_scaled_down_but_not_up() -> None:
    small = gallery_image(Image.new("CMYK", (50, 20)), "c", longest=100)
    assert (small.width, small.height) == (50, 20)
    large = gallery_image(Image.new("LA", (1000, 10)), "c", longest=100)
    assert (large.width, large.height) == (100, 1)
    head, data = large.src.split(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (100, 1)


def test_only_the_rows_that_are_asked_for_are_read(tables, some_items) -> None:
    keys = [some_items[0].key, some_items[-1].key]  # of two files
    rows = list(read_rows(tables, "images", [*keys, "no such key"], ["caption"]))
    assert sorted(rows, key=lambda r: keys.index(r["key"])) == [
        {"key": keys[0], "caption": "disc number 0"},
        {"key": keys[1], "caption": "<script>alert(2)</script>"},
    ]
    assert list(read_rows(tables, "images", [], ["caption"])) == []
