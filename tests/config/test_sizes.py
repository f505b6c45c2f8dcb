from __future__ import annotations

import pytest

from squeeze_cli.config.fields import short_size, size_text


@pytest.mark.parametrize(
    ("sides", "short", "text"),
    [((224, 224), 224, "224"), ([448], 448, "448"), ((480, 640), [480, 640], "480x640")],
)
def test_a_square_is_its_side_and_others_are_height_and_width(
    sides: tuple[int, ...], short: int | list[int], text: str
) -> None:
    assert short_size(sides) == short
    assert size_text(sides) == size_text(short) == text
