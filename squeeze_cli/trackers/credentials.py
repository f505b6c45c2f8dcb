"""ClearML credentials: where squeeze looks for them, and how it checks and writes them.

The first of these places that has any decides. Values of two places are never mixed, because a key
must not reach another server than its own:

    --credentials FILE
    CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY (with CLEARML_API_HOST, ..., if set)
    ./clearml_credentials.yaml
    clearml_credentials.yaml in the user's configuration folder of squeeze
    clearml.conf (CLEARML_CONFIG_FILE, else ~/clearml.conf)

No message holds a value: a secret pasted into a wrong field stays unseen.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from squeeze_cli.errors import SqueezeError
from squeeze_cli.files import write_text_atomically

FILE_NAME = "clearml_credentials.yaml"
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
FIELDS = tuple(ENVIRONMENT)
# Names in ClearML's own block, in the order of FIELDS.
_CLEARML_NAMES = ("api_server", "web_server", "files_server", "access_key", "secret_key")
_CLEARML_VALUE = re.compile(
    r"[\"']?\b(" + "|".join(_CLEARML_NAMES) + r")\b[\"']?\s*[:=]?\s*"
    r"(\"[^\"\n]*\"|'[^'\n]*'|\$\{[^}\n]*\}|[^\s,}]+)"
)
_INIT = "run: squeeze clearml-init"
_PLACEHOLDER = re.compile(
    r"<.*>|\$\{.*\}|^(https?://)?your[-_ ]|^change[-_]?me|^x{3,}$|^\.{3}$", re.IGNORECASE
)


class CredentialsError(SqueezeError):
    """Credentials that cannot be used: every problem, and the command that fixes them."""

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem}: {mend}")
        self.problem = problem
        self.mend = mend


class CredentialsNotFoundError(SqueezeError):
    """No place has credentials; the message names the places."""


@dataclass(frozen=True)
class Credentials:
    """Address of a ClearML server, and a key for it; key and secret stay out of the repr."""

    api_host: str
    web_host: str
    files_host: str
    api_key: str = field(repr=False)
    api_secret: str = field(repr=False)


@dataclass(frozen=True)
class FoundCredentials:
    """Credentials, the place that they come from, and warnings about that place."""

    credentials: Credentials
    source: str
    warnings: tuple[str, ...] = ()


def default_file() -> Path:
    """Return the path of the credentials in the user's configuration folder."""
    import platformdirs

    return Path(platformdirs.user_config_dir("squeeze", appauthor=False)) / FILE_NAME


def find_credentials(
    explicit: Path | None = None, environment: Mapping[str, str] | None = None
) -> FoundCredentials:
    """Return the credentials of the first place that has some; see the top of this file.

    Raises CredentialsNotFoundError where no place has any, CredentialsError where the first one
    cannot be used.
    """
    environment = os.environ if environment is None else environment
    if explicit is None and (found := _from_environment(environment)):
        return found
    files = [explicit] if explicit is not None else [Path(FILE_NAME), default_file()]
    for path in files:
        if path.is_file():
            return read_credentials(path)
    if explicit is None:
        conf = Path(environment.get("CLEARML_CONFIG_FILE") or "~/clearml.conf").expanduser()
        files.append(conf)
        if conf.is_file() and (found := _from_conf(conf, environment)):
            return found
    places = ", ".join(f"./{path}" if path == Path(FILE_NAME) else str(path) for path in files)
    raise CredentialsNotFoundError(
        f"ClearML credentials file not found (looked at {places}): {_INIT}"
    )


def read_credentials(path: Path) -> FoundCredentials:
    """Read credentials from a YAML file; CredentialsError names the file's problems."""
    import yaml

    elsewhere = "" if path == Path(FILE_NAME) else f" --file {path}"
    rewrite = f"{_INIT} --overwrite{elsewhere}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise CredentialsError(f"{path} cannot be read ({reason})", rewrite) from None
    except yaml.YAMLError as error:  # its text quotes the file
        mark = getattr(error, "problem_mark", None)
        where = f" near line {mark.line + 1}" if mark is not None else ""
        raise CredentialsError(f"{path} is no valid YAML{where}", rewrite) from None
    if not isinstance(content, Mapping):
        raise CredentialsError(f"{path} does not map {', '.join(FIELDS)} to values", rewrite)
    credentials = checked_credentials(content, str(path), rewrite)
    return FoundCredentials(credentials, str(path), _loose_mode(path))


def checked_credentials(values: Mapping[str, object], source: str, mend: str) -> Credentials:
    """Make credentials of a mapping; CredentialsError names every missing or unusable value."""
    problems = find_problems(values)
    if problems:
        raise CredentialsError(f"{source}: {'; '.join(problems)}", mend)
    texts = {name: str(values[name]).strip() for name in FIELDS}
    texts |= {name: texts[name].rstrip("/") for name in PUBLIC_HOSTS}
    return Credentials(**texts)


def find_problems(values: Mapping[str, object]) -> list[str]:
    """Describe each unusable value and key in one sentence that quotes neither."""
    problems = []
    for name in values:
        if name not in FIELDS:  # perhaps a secret in the wrong place
            close = difflib.get_close_matches(str(name), FIELDS, n=1, cutoff=0.7)
            hint = f" is close to {close[0]}: rename it" if close else f": use {', '.join(FIELDS)}"
            problems.append(f"an unknown key{hint}")
    for name in FIELDS:
        problem = find_problem(name, values[name]) if name in values else "is missing"
        if problem:
            problems.append(f"{name} {problem}")
    return problems


def find_problem(name: str, value: object) -> str | None:
    """Return what is wrong with one value, or None."""
    if not isinstance(value, str):
        return "must be text" if value is not None else "is empty"
    text = value.strip()
    if not text:
        return "is empty"
    if _PLACEHOLDER.search(text):
        return "is still the placeholder of the template"
    if not re.fullmatch(r"[!-~]+", text):
        return "must be ASCII, without blanks"
    if name not in PUBLIC_HOSTS:
        return None
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        return f"is no http:// or https:// URL such as {PUBLIC_HOSTS[name]}"
    if parts.username is not None or parts.query or parts.fragment:
        return "must be a plain URL, without user name, '?' or '#'"
    return None


def with_public_hosts(values: Mapping[str, str]) -> dict[str, str]:
    """Complete absent hosts by those of ClearML's public server, unless another one is meant."""
    public = values.get("api_host", PUBLIC_HOSTS["api_host"]).rstrip("/")
    return {**PUBLIC_HOSTS, **values} if public == PUBLIC_HOSTS["api_host"] else dict(values)


def write_credentials(path: Path, credentials: Credentials) -> None:
    """Write the file whole or not at all, readable by its owner alone (mode 0600)."""
    import yaml

    text = "# ClearML credentials, by `squeeze clearml-init`. A secret: never commit it.\n"
    text += yaml.safe_dump(vars(credentials), sort_keys=False)
    write_text_atomically(path, text, mode=0o600)


def parse_api_block(text: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Read ClearML's own `api { ... }` block (or a `clearml.conf`); absent values stay out.

    Understands `key: value`, `key = value` and `key value`, quoted or not, `#` and `//` comments,
    and `${NAME}` for environment variables.
    """
    start = re.search(r"(?m)^\s*[\"']?api[\"']?\s*[:=]?\s*\{", text)
    block = re.sub(r"(?m)(^|\s)(#|//).*$", r"\1", text[start.end() :] if start else text)
    values: dict[str, str] = {}
    for name, quoted in _CLEARML_VALUE.findall(block):
        value = quoted.strip("\"'")
        if variable := re.fullmatch(r"\$\{\??(\w+)\}", value):
            value = (environment or {}).get(variable[1], "")
        if value:  # the first counts: other sections have keys of the same names
            values.setdefault(FIELDS[_CLEARML_NAMES.index(name)], value)
    return values


def _loose_mode(path: Path) -> tuple[str, ...]:
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        return (f"{path} can be read by others: chmod 600 {path}",)
    return ()


def _from_environment(environment: Mapping[str, str]) -> FoundCredentials | None:
    given = {name: value for name, key in ENVIRONMENT.items() if (value := environment.get(key))}
    missing = [ENVIRONMENT[name] for name in ("api_key", "api_secret") if name not in given]
    if len(missing) == 2:
        return None
    if missing:
        problem = f"{missing[0]} is not set though its counterpart is"
        raise CredentialsError(problem, "set both, or neither")
    source = "the environment variables CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY"
    return FoundCredentials(
        checked_credentials(with_public_hosts(given), source, "set them anew"), source
    )


def _from_conf(path: Path, environment: Mapping[str, str]) -> FoundCredentials | None:
    """Read credentials from a `clearml.conf`; None where it holds only other settings."""
    try:
        values = parse_api_block(path.read_text(encoding="utf-8", errors="replace"), environment)
    except OSError as error:
        raise CredentialsError(f"{path} cannot be read ({error.strerror})", _INIT) from None
    if "api_key" not in values and "api_secret" not in values:
        return None
    credentials = checked_credentials(with_public_hosts(values), str(path), _INIT)
    return FoundCredentials(credentials, str(path), _loose_mode(path))
