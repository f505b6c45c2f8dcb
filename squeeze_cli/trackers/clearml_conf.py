"""ClearML's own way of writing credentials: the `api { ... }` block that its web application shows."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Names in ClearML's block, and ours.
_NAMES = {
    "api_server": "api_host",
    "web_server": "web_host",
    "files_server": "files_host",
    "access_key": "api_key",
    "secret_key": "api_secret",
}
_VALUE = re.compile(
    r"[\"']?\b(" + "|".join(_NAMES) + r")\b[\"']?\s*[:=]?\s*"
    r"(\"[^\"\n]*\"|'[^'\n]*'|\$\{[^}\n]*\}|[^\s,}]+)"
)


def parse_api_block(text: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Take ClearML's own `api { ... }` block (or a `clearml.conf`) apart; absent values stay out.

    Understands `key: value`, `key = value` and `key value`, quoted or not, `#` and `//` comments,
    and `${NAME}` for environment variables.
    """
    start = re.search(r"(?m)^\s*[\"']?api[\"']?\s*[:=]?\s*\{", text)
    block = _balanced(text[start.end() :]) if start else text
    block = re.sub(r"(?m)(^|\s)(#|//).*$", r"\1", block)
    values: dict[str, str] = {}
    for match in _VALUE.finditer(block):
        value = match[2].strip("\"'")
        variable = re.fullmatch(r"\$\{\??(\w+)\}", value)
        if variable:
            value = (environment or {}).get(variable[1], "")
        if value:
            values[_NAMES[match[1]]] = value
    return values


def _balanced(text: str) -> str:
    """`text` up to the brace that closes an opened one, or all of it."""
    depth = 1
    for position, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[:position]
    return text
