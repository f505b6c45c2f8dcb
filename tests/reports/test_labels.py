from __future__ import annotations

from itertools import combinations

from matplotlib.figure import Figure

from squeeze_cli.reports.figures import place_labels


def test_labels_of_close_points_do_not_overlap_and_stay_in_the_axes() -> None:
    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.subplots()
    points = [(1.0, 1.0), (1.02, 1.01), (1.01, 0.97), (9.9, 5.0), (0.1, 5.0)]
    axis.plot([0, 10], [0, 10], "-")
    for x, y in points:
        axis.plot([x], [y], "o")
    axis.set_xlim(0, 10)
    place_labels(axis, [(x, y, f"label {n}") for n, (x, y) in enumerate(points)])
    assert [text.get_text() for text in axis.texts] == [f"label {n}" for n in range(5)]
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    frame = axis.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
