"""Reading of YAML files that people write: experiments, tables of classes and credentials."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeeze_cli.config.fields import reason_of
from squeeze_cli.errors import UsageError
from squeeze_cli.files import read_text

if TYPE_CHECKING:
    import yaml

# Limits above the size of any experiment or table of classes; such a file is read within two seconds.
_MOST_BYTES = 2**18
_MOST_NODES = 50_000
_MERGE, _TEXT, _INT = (f"tag:yaml.org,2002:{kind}" for kind in ("merge", "str", "int"))


def read_yaml(path: Path, example: str) -> Mapping[str, Any]:
    """Read a mapping from a YAML file of texts, numbers, switches, lists and mappings.

    Keys are texts as written, also `1` and `on`. A key that occurs twice is refused, and so are numbers
    that YAML 1.1 reads in another base, such as `010` (8) and `1:30` (90).

    Raises UsageError for a file that cannot be read or has other content; the message refers to
    `example`, an example of such a mapping.
    """
    import yaml

    try:
        content = yaml.load(read_text(path, _MOST_BYTES), _plain_loader())
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        # PyYAML raises subclasses; the class itself is for YAML that only the loader below refuses.
        kind = "" if type(error) is yaml.MarkedYAMLError else " is no valid YAML"
        raise UsageError(f"{path}{line}{kind}: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is no valid YAML: {' '.join(str(error).split())}.") from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read {path}: {reason_of(error)}.") from None
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} must hold a mapping, such as {example}.")
    return content


@cache
def _plain_loader() -> "type[yaml.SafeLoader]":
    """Return PyYAML's safe loader without tags, dates, repeated keys and unbounded aliases."""
    import yaml

    def problem(words: str, place: Any) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=words, problem_mark=place.start_mark)

    class PlainLoader(yaml.SafeLoader):
        """Safe loader that refuses tags, repeated keys, ambiguous numbers and unbounded aliases."""

        # Dates stay texts: no field has a date, and an experiment may have one as its name.
        yaml_implicit_resolvers = {  # noqa: RUF012 - as in the class above
            first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.nodes = 0  # an alias counts as many as its anchor, each time it is used
            self.sizes: dict[yaml.Node | None, int] = {}

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            event, before = self.peek_event(), self.nodes  # type: ignore[no-untyped-call]
            node = super().compose_node(parent, index)
            if getattr(event, "tag", None) is not None:
                raise problem("tags (!) are not supported", event)
            if isinstance(event, yaml.AliasEvent) and node not in self.sizes:
                raise problem("an alias stands within its own value", event)
            self.nodes += self.sizes.get(node, 1)
            self.sizes.setdefault(node, self.nodes - before)
            if self.nodes > _MOST_NODES:
                raise problem(f"more than {_MOST_NODES:,} values, those of aliases included", event)
            return node

        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            names: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise problem("a key must be a text", key)
                if key.value in names:
                    raise problem(f"{key.value!r} occurs twice", key)
                if key.tag != _MERGE:
                    names.add(key.value)
                    key.tag = _TEXT
            return node

        def construct_number(self, node: yaml.ScalarNode) -> Any:
            digits = node.value.lstrip("+-")
            if ":" in digits or (node.tag == _INT and digits[0] == "0" and digits[1:2].isdecimal()):
                raise problem(f"write {node.value} without leading zeros and colons", node)
            if len(digits) > 100:
                raise problem(f"a number has {len(digits):,} digits", node)
            return getattr(self, f"construct_yaml_{'int' if node.tag == _INT else 'float'}")(node)

    for tag in (_INT, "tag:yaml.org,2002:float"):
        PlainLoader.add_constructor(tag, PlainLoader.construct_number)
    return PlainLoader
