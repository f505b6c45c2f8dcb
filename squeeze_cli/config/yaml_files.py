"""YAML files that people write: experiments and tables of classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeeze_cli.errors import UsageError


def read_yaml(path: Path, example: str) -> Mapping[Any, Any]:
    """Read a mapping from a YAML file in which no key stands twice.

    Raises UsageError for a file that cannot be read or holds something else; `example` says where
    to find such a mapping.
    """
    import yaml

    class UniqueKeys(yaml.SafeLoader):
        """PyYAML's safe loader, which alone would let the last of several equal keys win."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = set()
            for key, _ in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in names:
                    raise UsageError(f"{path}, line {line}: {name!r} stands there twice.")
                names.add(name)
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys) or {}
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} must hold a mapping, such as {example}.")
    return content
