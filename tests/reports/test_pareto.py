from __future__ import annotations

from squeeze_cli.reports.comparison import on_front


def test_what_is_beaten_in_both_is_not_on_the_front() -> None:
    points = [(9.0, 0.5), (3.0, 0.5), (16.0, 0.6), (16.5, 0.55), (2.0, 0.3)]
    marks = [on_front(point, points) for point in points]
    assert marks == [False, True, True, False, True]


def test_equal_points_do_not_beat_each_other_but_one_figure_better_does() -> None:
    assert on_front((3.0, 0.5), [(3.0, 0.5), (3.0, 0.5)])
    assert not on_front((3.0, 0.5), [(3.0, 0.5), (3.0, 0.6)])
    assert on_front((3.0, 0.6), [(3.0, 0.5), (3.0, 0.6)])
    assert on_front((3.0, 0.6), [])
