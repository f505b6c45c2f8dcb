"""YAML files that people write: experiments and tables of classes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_cli.errors import UsageError


def read_yaml(path: Path, example: str) -> Mapping[Any, Any]:
    """Read a mapping from a YAML file in which no key stands twice and no number has leading zeros.

    Raises UsageError for a file that cannot be read or holds something else; `example` says where
    to find such a mapping.
    """
    import yaml

    class UniqueKeys(yaml.SafeLoader):
        """PyYAML's safe loader, which alone would let the last of several equal keys win."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names: set[object] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    name = self.construct_object(key)
                    if name in names:
                        raise UsageError(f"{_line(key)}: {key.value!r} stands there twice.")
                    names.add(name)
            return super().construct_mapping(node, deep)

        def construct_decimal(self, node: yaml.ScalarNode) -> int:
            """Refuse `010`, which is 8 in YAML 1.1 and 10 to most people."""
            if re.match("[-+]?0[0-9]", node.value):
                raise UsageError(f"{_line(node)}: write {node.value} without leading zeros.")
            return super().construct_yaml_int(node)

    def _line(node: yaml.Node) -> str:
        return f"{path}, line {node.start_mark.line + 1}"

    UniqueKeys.add_constructor("tag:yaml.org,2002:int", UniqueKeys.construct_decimal)

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys) or {}
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} must hold a mapping, such as {example}.")
    return content
