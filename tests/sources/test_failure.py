from rasterloom.schema import ErrorClass
from rasterloom.sources import failure


def test_every_error_class_has_its_words() -> None:
    assert set(failure.ERRORS) == set(ErrorClass)
    assert failure.error("dns") == "host not found"
    assert failure.error("of_a_later_version") == "of_a_later_version"
    assert failure.error(None) == "unknown"
