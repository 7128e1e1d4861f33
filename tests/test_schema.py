import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasterloom.schema import StepKind, pair_key

TEXT = st.one_of(st.none(), st.text(st.characters(codec=None), max_size=20))


@given(TEXT, TEXT, TEXT, TEXT)
def test_keys_differ_wherever_pairs_do(url, caption, other_url, other_caption):
    same = (url, caption) == (other_url, other_caption)
    assert (pair_key(url, caption) == pair_key(other_url, other_caption)) == same


def test_a_key_is_the_same_in_another_process():
    code = "from rasterloom.schema import pair_key; print(pair_key('http://a/b.jpg', 'caf\\u00e9'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    key = pair_key("http://a/b.jpg", "café")
    assert printed.strip() == key
    assert len(key) == 32 and int(key, 16) >= 0


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        ("images", StepKind.IMAGES, ""),
        ("tokens/512", StepKind.TOKENS, "512"),
        ("train/1-512", StepKind.TRAIN, "1-512"),
        ("pinned/art-v1-512", StepKind.PINNED, "art-v1-512"),
        ("imagesque", None, ""),
    ],
)
def test_a_name_tells_kind_and_part(name, kind, part):
    assert StepKind.of(name) is kind
    assert StepKind.part(name) == part


def test_a_kind_makes_the_name_of_a_part():
    assert StepKind.CODES.step(512) == "codes/512"
    assert type(StepKind.CODES.step(512)) is str
