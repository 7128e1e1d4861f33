from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from rasterloom.schema import pair_key
from rasterloom.sources.repeated_keys import Repeats


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 30), max_size=20), max_size=6))
def test_only_the_first_of_a_key_is_none(tmp_path_factory, batches: list[list[int]]) -> None:
    folder: Path = tmp_path_factory.mktemp("repeats")
    with Repeats(folder) as repeats:
        for batch in batches:
            repeats.add([pair_key(str(number), "x") for number in batch])
        found = repeats.find().tolist()
    flat = [number for batch in batches for number in batch]
    assert found == [number in flat[:row] for row, number in enumerate(flat)]


def test_keys_that_share_a_half_are_different(tmp_path: Path) -> None:
    keys = ["00" * 16, "00" * 8 + "11" * 8, "11" * 8 + "00" * 8, "00" * 16, "ff" * 16, "ff" * 16]
    with Repeats(tmp_path) as repeats:
        repeats.add(keys)
        assert repeats.find().tolist() == [False, False, False, True, False, True]
