"""Which of many vectors are most unlike what is known and each other."""

import numpy as np

from indexer.learn.spread import directions, most_different

CORNERS = directions(np.asarray([[1, 0.1], [1, 0], [-1, 0], [0, 1], [0, -1.0]]))


def test_each_is_the_farthest_from_all_before_it():
    order = [place for place, _ in most_different(CORNERS, CORNERS[:1])]
    assert (order[0], order[-1]) == (2, 0)  # opposite to the known one; the known one itself
    assert order.index(1) > 2  # it is nearly the known one
    distances = [distance for _, distance in most_different(CORNERS, CORNERS[:1])]
    assert distances == sorted(distances, reverse=True)
    assert 1.9 < distances[0] <= 2.0


def test_while_nothing_is_known_the_first_is_as_good_as_any_and_the_second_unlike_it():
    (first, distance), (second, _), *_ = most_different(CORNERS, CORNERS[:0])
    assert (first, distance, second) == (0, 1.0, 2)
    assert list(most_different(CORNERS[:0], CORNERS)) == []


def test_weights_move_the_important_ahead_but_never_bring_one_twice():
    weights = np.asarray([0.0, 0.0, 0.1, 1.0, 0.0])
    order = [place for place, _ in most_different(CORNERS, CORNERS[:1], weights)]
    assert order[0] == 3
    assert sorted(order) == [0, 1, 2, 3, 4]
