import threading

import pytest

from rasterloom.utils.parallel import ahead


def test_items_come_in_order_and_no_more_than_asked_are_ahead():
    begun, first = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 0:
            first.wait(10)  # the others are done before it
        elif item == 3:
            first.set()
        return item * 10

    found = ahead(work, range(12), 4, most=8, size=lambda item: 2)
    assert next(found) == 0
    assert sorted(begun) == [0, 1, 2, 3]  # eight, of two each; the fifth is under way when one was taken
    assert list(found) == [10 * i for i in range(1, 12)]


def test_an_item_that_is_larger_than_all_may_be_is_worked_on_alone():
    held, most = set(), []

    def items():
        for item in (1, 9, 2, 3):
            held.add(item)
            most.append(len(held))
            yield item

    for item in ahead(lambda item: item, items(), 2, most=3, size=lambda item: item):
        held.discard(item)
    assert most == [1, 2, 2, 2]  # the next is looked at before the one that is held is given away


def test_an_error_is_raised_in_its_place_and_what_is_left_is_not_begun():
    begun, before = [], set(threading.enumerate())

    def work(item):
        begun.append(item)
        if item == 2:
            raise ValueError("the third")
        return item

    found = ahead(work, range(1000), 1, most=3, size=lambda item: 1)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(found)
    assert len(begun) < 10
    assert set(threading.enumerate()) <= before
