from __future__ import annotations

import pytest

from squeeze_cli.config.parts import BACKBONES, HEADS, LOSSES, QUANTIZERS, Registry
from squeeze_cli.errors import UsageError


@pytest.mark.parametrize("registry", [BACKBONES, HEADS, LOSSES, QUANTIZERS])
def test_every_name_loads(registry: Registry) -> None:
    for name in registry:
        assert isinstance(registry.load(name), type)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Unknown loss 'dise'.*did you mean 'dice'\?"):
        LOSSES["dise"]
