"""Reading of YAML files that people write: experiments, tables of classes and credentials."""

from collections.abc import Mapping
from pathlib import Path

from squeeze_cli.config.fields import reason_of
from squeeze_cli.errors import UsageError
from squeeze_cli.files import read_text

# Limits above the size of any experiment or table of classes; larger files could take minutes.
_MOST_BYTES = 2**18
_MOST_NODES = 50_000
_MOST_DEPTH = 100
_TOO_MANY = f"more than {_MOST_NODES:,} values, those of aliases included"
_MERGE, _TEXT, _INT, _FLOAT = (f"tag:yaml.org,2002:{k}" for k in ("merge", "str", "int", "float"))


def read_yaml(path: Path, example: str) -> Mapping[str, object]:
    """Read a mapping from a YAML file of texts, numbers, switches, lists and mappings.

    Keys are texts as written, also `1` and `on`. A key that occurs twice is refused, and so are numbers
    that YAML 1.1 reads in another base, such as `010` (8) and `1:30` (90).

    Raises UsageError for a file that cannot be read or has other content; the message refers to
    `example`, an example of such a mapping.
    """
    import yaml

    try:
        content = _read_plain(read_text(path, _MOST_BYTES))
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        # PyYAML raises subclasses; the class itself is for YAML that only the function below refuses.
        kind = "" if type(error) is yaml.MarkedYAMLError else " is not valid YAML"
        raise UsageError(f"{path}{line}{kind}: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read {path}: {reason_of(error)}.") from None
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} must hold a mapping, such as {example}.")
    return content


def _read_plain(text: str) -> object:
    """Return the content of a YAML text; yaml.MarkedYAMLError for one that `read_yaml` refuses."""
    import yaml

    def problem(words: str, place: yaml.Node | yaml.Event) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=words, problem_mark=place.start_mark)  # type: ignore[arg-type]

    def check(node: yaml.Node, around: tuple[yaml.Node, ...] = ()) -> None:
        visited.append(node)  # a value counts again for each alias of it
        if len(visited) > _MOST_NODES:
            raise problem(_TOO_MANY, node)
        if node in around:
            raise problem("an alias stands within its own value", node)
        if isinstance(node, yaml.SequenceNode):
            for value in node.value:
                check(value, (*around, node))
        elif isinstance(node, yaml.MappingNode):
            names: set[str] = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise problem("a key must be a text", key)
                if key.value in names:
                    raise problem(f"{key.value!r} occurs twice", key)
                if key.tag != _MERGE:
                    names.add(key.value)
                    key.tag = _TEXT
                check(value, (*around, node))
        elif node.tag in (_INT, _FLOAT):
            digits = node.value.lstrip("+-")
            if ":" in digits or (node.tag == _INT and digits[0] == "0" and digits[1:2].isdecimal()):
                raise problem(f"write {node.value} without leading zeros and colons", node)
            if len(digits) > 100:
                raise problem(f"a number has {len(digits):,} digits", node)

    visited: list[yaml.Node] = []
    depth = 0
    for count, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_DEPTH:
            raise RecursionError
        if count > 2 * _MOST_NODES:
            raise problem(_TOO_MANY, event)
        if getattr(event, "tag", None) is not None:
            raise problem("tags (!) are not supported", event)
    loader = yaml.SafeLoader(text)
    # Dates stay texts: no field has a date, and an experiment may have one as its name.
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    root = loader.get_single_node()
    if root is None:
        return None
    check(root)
    return loader.construct_document(root)
