from __future__ import annotations

import pytest

from squeeze_cli.config.parts import BACKBONES, LOSSES, QUANTIZERS, Entry, Registry
from squeeze_cli.errors import UsageError


@pytest.mark.parametrize("registry", [BACKBONES, LOSSES, QUANTIZERS])
def test_every_name_loads_and_is_described(registry: Registry) -> None:
    for name in registry:
        assert isinstance(registry.load(name), type)
        assert registry[name].summary


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Unknown loss 'dise'.*did you mean 'dice'\?"):
        LOSSES["dise"]


def test_a_name_is_given_only_once() -> None:
    registry = Registry("thing")
    registry.register("a", Entry("x:Y", "first"))
    with pytest.raises(ValueError, match="registered already"):
        registry.register("a", Entry("x:Z", "second"))
