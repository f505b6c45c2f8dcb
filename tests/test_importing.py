from __future__ import annotations

import gc

import pytest

from squeeze_cli.importing import uncollected


def test_the_collector_rests_within_and_works_after_even_an_error() -> None:
    assert gc.isenabled()

    def fail() -> None:
        with uncollected():
            assert not gc.isenabled()
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
