from __future__ import annotations

import pytest

from squeeze_cli.config.parts import BACKBONES, DATASETS, HEADS, LOSSES, QUANTIZERS, Registry
from squeeze_cli.config.schema import FIELDS
from squeeze_cli.errors import UsageError

by_registry = pytest.mark.parametrize(
    "registry", [BACKBONES, DATASETS, HEADS, LOSSES, QUANTIZERS], ids=lambda registry: registry.kind
)


@by_registry
def test_every_name_loads(registry: Registry) -> None:
    for name in registry:
        assert isinstance(registry.load(name), type)


@by_registry
def test_entries_name_fields_and_parts_that_exist(registry: Registry) -> None:
    fields = {key.rpartition(".")[2] for key in FIELDS}
    for entry in registry.values():
        assert {*entry.options, *entry.defaults} <= fields
        assert {entry.photographs} <= {None, *DATASETS}


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Unknown loss 'dise'.*did you mean 'dice'\?"):
        LOSSES["dise"]


def test_a_prefix_needs_a_name_behind_it() -> None:
    assert BACKBONES.check("timm:resnet18") == "timm:resnet18"
    assert BACKBONES.check("efficientnet_lite0") == "efficientnet-lite0"
    assert BACKBONES.check("features") == "features"  # reserved: no backbone
    with pytest.raises(UsageError, match="timm: needs a name after it, as in timm:NAME"):
        BACKBONES.check("timm:")
    with pytest.raises(UsageError, match="Unknown backbone 'tim:resnet18'"):
        BACKBONES.check("tim:resnet18")
