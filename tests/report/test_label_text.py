import numpy as np
import pytest
from PIL import Image, ImageDraw

from rasterloom.report import label_text
from rasterloom.report.label_text import draw_text, text_width, wrapped

TEXTS = {
    "latin": "a red circle, größer: ça",
    "vietnamese": "một vòng tròn màu đỏ",
    "greek": "ένας κόκκινος κύκλος",
    "cyrillic": "красный круг",
    "chinese": "一个红色的圆",
    "traditional chinese": "一個紅色的圓",
    "japanese": "赤い丸とカタカナ、ー。",
    "korean": "빨간 동그라미",
    "arabic": "دائرة حمراء",
    "hebrew": "עיגול אדום",
    "hindi": "एक लाल वृत्त",
    "bengali": "একটি লাল বৃত্ত",
    "tamil": "சிவப்பு வட்டம்",
    "thai": "วงกลมสีแดง",
    "armenian": "կարմիր շրջան",
    "georgian": "წითელი წრე",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_every_character_has_a_font(text):
    missing = [c for c in text if not any(label_text._has(n, c) for n in range(len(label_text.SCRIPTS)))]
    assert missing == []


def test_texts_of_one_length_look_different():
    """Boxes in place of letters look alike."""
    drawn = set()
    for text in ("красный", "зелёный", "红色的圆", "绿色的圆", "빨간", "초록", "أحمر", "أخضر"):
        image = Image.new("L", (200, 24), "white")
        pen = ImageDraw.Draw(image)
        draw_text(pen, 0, 0, text)
        assert np.asarray(image).min() < 128
        drawn.add(image.tobytes())
    assert len(drawn) == 8


def test_what_no_font_has_is_a_box_and_no_error():
    for text in ("\U0001f600", "a \U00012345 b", "", "\u202e\x00"):
        assert text_width(text) >= 0
        draw_text(ImageDraw.Draw(Image.new("L", (200, 24))), 0, 0, text)


def test_a_text_is_broken_between_words_or_else_within_them():
    assert wrapped("one two three", 1000, 5) == ["one two three"]
    assert wrapped(" one\ntwo ", 1000, 5) == ["one two"]
    width = text_width("one two")
    assert wrapped("one two three", width, 5) == ["one two", "three"]
    long = "红色的圆" * 20
    lines = wrapped(long, 200, 99)
    assert "".join(lines) == long and all(text_width(line) <= 200 for line in lines)
    assert wrapped("", 100, 5) == []


def test_a_text_of_too_many_lines_ends_with_an_ellipsis():
    lines = wrapped("word " * 1000, 100, 3)
    assert len(lines) == 3 and lines[-1].endswith("…")
    assert all(text_width(line) <= 100 for line in lines)
    assert wrapped("W" * 100_000, 100, 2)[-1].endswith("…")
    assert wrapped("W", 1, 2) == ["W"]
