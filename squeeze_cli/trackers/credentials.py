"""ClearML credentials: the places where squeeze looks for them, their check, and their file.

The first of these places that has any decides. Values of two places are never mixed, because a key
must not reach another server than its own:

    --credentials FILE
    CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY (with CLEARML_API_HOST, ..., if set)
    ./clearml_credentials.yaml
    clearml_credentials.yaml in the user's configuration folder of squeeze
    clearml.conf (CLEARML_CONFIG_FILE, else ~/clearml.conf)

No message quotes a value: it may be a secret that was pasted into the wrong field.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from squeeze_cli.errors import SqueezeError, nearest
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
# The same fields, in the same order, as ClearML's own configuration names them.
_CLEARML_NAMES = ("api_server", "web_server", "files_server", "access_key", "secret_key")
_CLEARML_VALUE = re.compile(
    r"[\"']?\b(" + "|".join(_CLEARML_NAMES) + r")\b[\"']?\s*[:=]?\s*"
    r"(\"[^\"\n]*\"|'[^'\n]*'|\$\{[^}\n]*\}|[^\s,}]+)"
)
_INIT = "run: squeeze clearml-init"
_PLACEHOLDER = re.compile(r"<.*>|\$\{.*\}|^(https?://)?your[-_ ]|^x{3,}$|^\.{3}$", re.IGNORECASE)


class CredentialsError(SqueezeError):
    """Credentials that cannot be used: every problem, and the command that fixes them."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}: {fix}")
        self.problem = problem
        self.fix = fix


@dataclass(frozen=True)
class Credentials:
    """Addresses of a ClearML server and a key for it; key and secret stay out of the repr.

    `source` is the place that they come from, `warning` says what is wrong with that place.
    """

    api_host: str
    web_host: str
    files_host: str
    api_key: str = field(repr=False)
    api_secret: str = field(repr=False)
    source: str = field(default="", compare=False)
    warning: str = field(default="", compare=False)

    def values(self) -> dict[str, str]:
        """Return the five values by name."""
        return {name: getattr(self, name) for name in FIELDS}


def default_file() -> Path:
    """Return the path of the credentials in the user's configuration folder."""
    import platformdirs

    return Path(platformdirs.user_config_dir("squeeze", appauthor=False)) / FILE_NAME


def find_credentials(
    explicit: Path | None = None, environment: Mapping[str, str] | None = None
) -> Credentials:
    """Return the credentials of the first place that has some; see the top of this file.

    Raises CredentialsError where no place has any, or where those of the first cannot be used.
    """
    environment = os.environ if environment is None else environment
    given = {name: value for name, key in ENVIRONMENT.items() if (value := environment.get(key))}
    if explicit is None and ("api_key" in given or "api_secret" in given):
        source = "the environment variables CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY"
        for name in ("api_key", "api_secret"):
            if name not in given:
                raise CredentialsError(f"{ENVIRONMENT[name]} is not set", "set both, or neither")
        return checked_credentials(given, source, "set them again")
    conf = Path(environment.get("CLEARML_CONFIG_FILE") or "~/clearml.conf").expanduser()
    places = [Path(FILE_NAME), default_file(), conf] if explicit is None else [explicit]
    for path in places:
        if not path.is_file():
            continue
        if path != conf:
            return read_credentials(path)
        values = parse_api_block(_read(path, _INIT), environment)
        if "api_key" in values or "api_secret" in values:  # else it holds only other settings
            return _from_file(path, values, _INIT)
    listed = ", ".join(f"./{path}" if path == Path(FILE_NAME) else str(path) for path in places)
    raise CredentialsError(f"ClearML credentials file not found (looked at {listed})", _INIT)


def read_credentials(path: Path) -> Credentials:
    """Read credentials from a YAML file; CredentialsError names the file's problems."""
    import yaml

    rewrite = f"{_INIT} --overwrite{'' if path == Path(FILE_NAME) else f' --file {path}'}"
    text = _read(path, rewrite)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:  # its message quotes the file
        raise CredentialsError(f"{path} is not valid YAML", rewrite) from None
    if not isinstance(values, Mapping):
        raise CredentialsError(f"{path} does not map {', '.join(FIELDS)} to values", rewrite)
    return _from_file(path, values, rewrite)


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


def with_public_hosts(values: Mapping[str, object]) -> dict[str, object]:
    """Add missing hosts of ClearML's public server, unless `api_host` names another server."""
    public = PUBLIC_HOSTS["api_host"]
    is_public = str(values.get("api_host", public)).rstrip("/") == public
    return {**(PUBLIC_HOSTS if is_public else {}), **values}


def checked_credentials(values: Mapping[str, object], source: str, fix: str) -> Credentials:
    """Make credentials of a mapping; CredentialsError names every missing or unusable value."""
    values = with_public_hosts(values)
    if problems := find_problems(values):
        raise CredentialsError(f"{source}: {'; '.join(problems)}", fix)
    texts = {name: str(values[name]).strip() for name in FIELDS}
    texts |= {name: texts[name].rstrip("/") for name in PUBLIC_HOSTS}
    return Credentials(**texts, source=source)


def find_problems(values: Mapping[str, object]) -> list[str]:
    """Describe each unusable value and key without quoting it."""
    problems = [f"an unknown key: {nearest(str(n), FIELDS)}" for n in values if n not in FIELDS]
    for name in FIELDS:
        problem = find_problem(name, values[name]) if name in values else "is missing"
        if problem:
            problems.append(f"{name} {problem}")
    return problems


def find_problem(name: str, value: object) -> str | None:
    """Return what is wrong with the value of one field, or None."""
    if value is not None and not isinstance(value, str):
        return "must be text"
    text = (value or "").strip()
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
        return f"is not an http:// or https:// URL such as {PUBLIC_HOSTS[name]}"
    if parts.username is not None or parts.query or parts.fragment:
        return "must be a plain URL, without user name, '?' or '#'"
    return None


def write_credentials(path: Path, credentials: Credentials) -> None:
    """Write the file, which only its owner may read (mode 0600)."""
    import yaml

    text = "# ClearML credentials, by `squeeze clearml-init`. A secret: never commit it.\n"
    text += yaml.safe_dump(credentials.values(), sort_keys=False)
    write_text_atomically(path, text, mode=0o600)


def _read(path: Path, fix: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise CredentialsError(f"{path} cannot be read ({reason})", fix) from None


def _from_file(path: Path, values: Mapping[str, object], fix: str) -> Credentials:
    """Check the values of a file, and warn where others may read it."""
    credentials = checked_credentials(values, str(path), fix)
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        warning = f"{path} can be read by others: chmod 600 {path}"
        return replace(credentials, warning=warning)
    return credentials
