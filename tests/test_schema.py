import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from rasterloom.schema import pair_key

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
