"""ClearML credentials: where they are looked for, how they are checked and written.

Looked for in this order; the first place that has any decides, and values of two places are never
mixed (a key must not reach another server than its own):

    --credentials FILE
    CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY (with CLEARML_API_HOST, ..., if set)
    ./clearml_credentials.yaml
    clearml_credentials.yaml in squeeze's configuration folder of the user
    clearml.conf (CLEARML_CONFIG_FILE, else ~/clearml.conf)

No message of this file ever holds a value: a secret pasted into a wrong field stays unseen.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from squeeze_cli.errors import SqueezeError
from squeeze_cli.files import write_text_atomically
from squeeze_cli.trackers.clearml_conf import parse_api_block

FILE_NAME = "clearml_credentials.yaml"
FIELDS = ("api_host", "web_host", "files_host", "api_key", "api_secret")
HOST_FIELDS = FIELDS[:3]
PUBLIC_HOSTS = {
    "api_host": "https://api.clear.ml",
    "web_host": "https://app.clear.ml",
    "files_host": "https://files.clear.ml",
}
ENVIRONMENT = {
    "api_host": "CLEARML_API_HOST",
    "web_host": "CLEARML_WEB_HOST",
    "files_host": "CLEARML_FILES_HOST",
    "api_key": "CLEARML_API_ACCESS_KEY",
    "api_secret": "CLEARML_API_SECRET_KEY",
}
_MEND = "run: squeeze clearml-init"
_PLACEHOLDER = re.compile(
    r"^$|<.*>|\$\{.*\}|^(https?://)?your[-_ ]|^change[-_]?me|^x{3,}$|^\.{3}$", re.IGNORECASE
)


class CredentialsError(SqueezeError):
    """Credentials that are there but cannot be used: every problem, and what mends them."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem}: {mend}")
        self.problem = problem
        self.mend = mend


class CredentialsNotFoundError(SqueezeError):
    """No credentials anywhere; the message says where they were looked for."""


@dataclass(frozen=True)
class Credentials:
    """What it takes to talk to a ClearML server; key and secret stay out of the repr."""

    api_host: str
    web_host: str
    files_host: str
    api_key: str = field(repr=False)
    api_secret: str = field(repr=False)


@dataclass(frozen=True)
class FoundCredentials:
    """Credentials, the place that they come from, and what is wrong with that place."""

    credentials: Credentials
    source: str
    warnings: tuple[str, ...] = ()


def default_file() -> Path:
    """`clearml_credentials.yaml` in squeeze's configuration folder of the user."""
    import platformdirs

    return Path(platformdirs.user_config_dir("squeeze", appauthor=False)) / FILE_NAME


def find_credentials(
    explicit: Path | None = None, environment: Mapping[str, str] | None = None
) -> FoundCredentials:
    """The credentials of the first place that has some; see the top of this file.

    Raises CredentialsNotFoundError where no place has any, CredentialsError where the first one
    cannot be used.
    """
    environment = os.environ if environment is None else environment
    if explicit is not None:
        if not explicit.is_file():
            raise CredentialsNotFoundError(_not_found([str(explicit)]))
        return read_credentials(explicit)
    from_environment = _from_environment(environment)
    if from_environment is not None:
        return from_environment
    candidates = [Path(FILE_NAME), default_file()]
    for path in candidates:
        if path.is_file():
            return read_credentials(path)
    conf = Path(environment.get("CLEARML_CONFIG_FILE") or "~/clearml.conf").expanduser()
    if conf.is_file():
        found = _from_conf(conf, environment)
        if found is not None:
            return found
    raise CredentialsNotFoundError(_not_found([*(f"./{FILE_NAME}", str(candidates[1])), str(conf)]))


def read_credentials(path: Path) -> FoundCredentials:
    """Credentials of a YAML file; CredentialsError names what is wrong with it."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise CredentialsError(f"{path} cannot be read ({reason})", _write_anew(path)) from None
    except yaml.YAMLError as error:
        # The error's own text quotes the file.
        mark = getattr(error, "problem_mark", None)
        where = f" near line {mark.line + 1}" if mark is not None else ""
        raise CredentialsError(f"{path} is no valid YAML{where}", _write_anew(path)) from None
    if not isinstance(content, Mapping):
        problem = f"{path} does not map {', '.join(FIELDS)} to values"
        raise CredentialsError(problem, _write_anew(path))
    credentials = checked_credentials(content, str(path), _write_anew(path))
    return FoundCredentials(credentials, str(path), _loose_mode(path))


def checked_credentials(values: Mapping[Any, Any], source: str, mend: str) -> Credentials:
    """Credentials from a mapping; CredentialsError names every missing or unusable value."""
    problems = find_problems(values)
    if problems:
        raise CredentialsError(f"{source}: {'; '.join(problems)}", mend)
    return Credentials(**{name: _clean(name, values[name]) for name in FIELDS})


def find_problems(values: Mapping[Any, Any]) -> list[str]:
    """What is wrong with these values, one sentence each; none of them quotes a value."""
    problems = []
    for name in values:
        if name not in FIELDS:
            close = difflib.get_close_matches(str(name), FIELDS, n=1, cutoff=0.7)
            if close:  # anything else might be a secret in the wrong place: do not repeat it
                problems.append(f"an unknown key is close to {close[0]}: rename it")
            else:
                problems.append(f"an unknown key: the keys are {', '.join(FIELDS)}")
    for name in FIELDS:
        problem = find_problem(name, values[name]) if name in values else "is missing"
        if problem:
            problems.append(f"{name} {problem}")
    return problems


def find_problem(name: str, value: Any) -> str | None:
    """What is wrong with one value, or None."""
    if not isinstance(value, str):
        return "must be text" if value is not None else "is empty"
    text = value.strip()
    if _PLACEHOLDER.search(text):
        return "is empty" if not text else "is still the placeholder of the template"
    if not re.fullmatch(r"[!-~]+", text):
        return "must be ASCII, without blanks"
    if name not in HOST_FIELDS:
        return None
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return f"is no URL such as {PUBLIC_HOSTS[name]}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"is no http:// or https:// URL such as {PUBLIC_HOSTS[name]}"
    if parts.username is not None or parts.query or parts.fragment:
        return "must be a plain URL, without user name, '?' or '#'"
    return None


def with_public_hosts(values: Mapping[str, str]) -> dict[str, str]:
    """Complete absent hosts by those of ClearML's public server, unless another server is meant."""
    public = values.get("api_host", PUBLIC_HOSTS["api_host"]).rstrip("/")
    return {**PUBLIC_HOSTS, **values} if public == PUBLIC_HOSTS["api_host"] else dict(values)


def write_credentials(path: Path, credentials: Credentials) -> None:
    """Write the file whole or not at all, readable by its owner alone (mode 0600)."""
    import yaml

    values = {name: getattr(credentials, name) for name in FIELDS}
    text = "# ClearML credentials, by `squeeze clearml-init`. A secret: never commit it.\n"
    text += yaml.safe_dump(values, sort_keys=False)
    write_text_atomically(path, text, mode=0o600)


def _clean(name: str, value: str) -> str:
    value = value.strip()
    return value.rstrip("/") if name in HOST_FIELDS else value


def _not_found(places: list[str]) -> str:
    return f"ClearML credentials file not found (looked at {', '.join(places)}): {_MEND}"


def _write_anew(path: Path) -> str:
    """The command that replaces a file that is there but no good."""
    elsewhere = "" if path == Path(FILE_NAME) else f" --file {path}"
    return f"{_MEND} --overwrite{elsewhere}"


def _loose_mode(path: Path) -> tuple[str, ...]:
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        return (f"{path} can be read by others: chmod 600 {path}",)
    return ()


def _from_environment(environment: Mapping[str, str]) -> FoundCredentials | None:
    given = {name: environment.get(variable) or "" for name, variable in ENVIRONMENT.items()}
    missing = [ENVIRONMENT[name] for name in ("api_key", "api_secret") if not given[name]]
    if len(missing) == 2:
        return None
    if missing:
        problem = f"{missing[0]} is not set though its counterpart is"
        raise CredentialsError(problem, "set both, or neither")
    values = with_public_hosts({name: value for name, value in given.items() if value})
    source = "the environment variables CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY"
    return FoundCredentials(checked_credentials(values, source, "set them anew"), source)


def _from_conf(path: Path, environment: Mapping[str, str]) -> FoundCredentials | None:
    """Credentials in a `clearml.conf`; None where it holds only other settings."""
    try:
        values = parse_api_block(path.read_text(encoding="utf-8", errors="replace"), environment)
    except OSError as error:
        raise CredentialsError(f"{path} cannot be read ({error.strerror})", _MEND) from None
    if "api_key" not in values and "api_secret" not in values:
        return None
    credentials = checked_credentials(with_public_hosts(values), str(path), _MEND)
    return FoundCredentials(credentials, str(path), _loose_mode(path))
