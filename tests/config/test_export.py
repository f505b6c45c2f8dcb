"""The JSON schemas in docs/ are those of the models."""

from __future__ import annotations

import json
from typing import Any

import pytest

from squeeze_cli.config.parts import DATASETS, QUANTIZERS
from tests.config.schemas import SCHEMAS, schema_text
from tests.conftest import ROOT


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schemas_in_docs_are_up_to_date(name: str) -> None:
    """Where this fails: `python -m tests.config.schemas`."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == schema_text(name)


def test_the_schema_says_what_a_file_may_hold() -> None:
    schema: dict[str, Any] = json.loads(schema_text("config.schema.json"))
    assert schema["additionalProperties"] is False
    training = schema["$defs"]["TrainingConfig"]["properties"]
    assert training["epochs"]["minimum"] == 1
    assert training["seed"]["description"] == "Seed for all random numbers."
    assert schema["$defs"]["DataConfig"]["properties"]["dataset"]["enum"] == [*DATASETS, None]
    quantizer = schema["$defs"]["QuantizerConfig"]["properties"]
    assert quantizer["type"]["enum"] == list(QUANTIZERS)
    assert quantizer["codebook_size"]["default"] is None
