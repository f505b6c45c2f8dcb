"""JSON schemas of the configuration and of the run record: `python -m tests.config.schemas`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from squeeze_cli.config.record import RunRecord
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.files import write_atomically

SCHEMAS: dict[str, type[BaseModel]] = {
    "config.schema.json": ExperimentConfig,
    "run-record.schema.json": RunRecord,
}


def schema_text(name: str) -> str:
    """Return the text of the schema file `name`, one of `SCHEMAS`."""
    schema = SCHEMAS[name].model_json_schema()
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    for file in SCHEMAS:
        write_atomically(folder / file, schema_text(file))
