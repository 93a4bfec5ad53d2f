"""The phrases that messages share."""

import pytest

from reproduce.base.wording import by_number, shortened


@pytest.mark.parametrize(
    ('items', 'most', 'expected'),
    [
        ([], 5, ''),
        (['a'], 5, 'a'),
        (['a', 'b'], 2, 'a, b'),
        (['a', 'b', 'c'], 2, 'a, b and 1 more'),
        ([3, 5], 1, '3 and 1 more'),
        (range(2001), 1, '0 and 2,000 more'),
    ],
)
def test_a_list_is_cut_short(items, most, expected):
    assert shortened(items, most) == expected


def test_the_verb_follows_the_number():
    assert [by_number(range(n), 'is', 'are') for n in range(3)] == ['are', 'is', 'are']
