"""ClearML credentials: the places where squeeze looks for them, their check, and a test login.

Values of two places are never mixed, because a key must not be sent to another server than its own. No
message quotes a value, because it may be a secret in the wrong field.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import platformdirs
import yaml
from pydantic import HttpUrl, ValidationError

from squeeze_cli.config.resolve import switched_on
from squeeze_cli.config.yaml_files import read_yaml
from squeeze_cli.errors import SqueezeError, UsageError, nearest
from squeeze_cli.files import write_atomically

if TYPE_CHECKING:
    from requests import Response

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
# Names of the same fields, in the same order, in the section `api` of clearml.conf.
_CONF_NAMES = ("api_server", "web_server", "files_server", "credentials.access_key",
               "credentials.secret_key")  # fmt: skip
CONF_SECONDS = 30.0  # time limit of the child process that reads a clearml.conf
_INIT = "run: squeeze clearml-init"
_PLACEHOLDER = re.compile(r"<.*>|\$\{.*\}|^(https?://)?your[-_ ]|^x{3,}$|^\.{3}$", re.IGNORECASE)
_REASONS = {  # reasons why a connection failed, by a word in the error
    "CERTIFICATE_VERIFY": "no secure connection to {host} (its certificate is not trusted)",
    "SSL": "no secure connection to {host} (TLS failed)",
    "Timeout": "{host} does not answer in time",
    "NameResolution": "the host name {name} is not known",
    "refused": "{host} refuses the connection: no server runs there",
    "": "the connection to {host} failed ({kind})",
}


class ClearMLUnavailableError(SqueezeError):
    """ClearML cannot be used for this run; `fix` is the command that fixes the problem, or empty."""

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(f"{problem}: {fix}" if fix else problem)
        self.problem = problem
        self.fix = fix


@dataclass(frozen=True)
class Credentials:
    """Addresses of a ClearML server and a key for it; the repr leaves out key and secret.

    `source` is the file of the credentials, or describes another place.
    """

    api_host: str
    web_host: str
    files_host: str
    api_key: str = field(repr=False)
    api_secret: str = field(repr=False)
    source: str = field(default="", compare=False)

    @property
    def warning(self) -> str:
        """Warning with the fix if other users can read the file, else an empty text."""
        file = Path(self.source)
        if os.name == "posix" and file.is_file() and file.stat().st_mode & 0o077:
            return f"{file} can be read by others: chmod 600 {file}"
        return ""

    def environment(self) -> dict[str, str]:
        """Return the credentials as environment variables of the SDK."""
        return {variable: getattr(self, name) for name, variable in ENVIRONMENT.items()}


def find_credentials(explicit: Path | None = None) -> Credentials:
    """Return the credentials in the file `explicit`, or in the first place of docs/trackers.md."""
    given = {name: value for name, key in ENVIRONMENT.items() if (value := os.environ.get(key))}
    if explicit is None and ("api_key" in given or "api_secret" in given):
        source = "the environment variables CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY"
        return checked_credentials(given, source, "set both, or neither")
    conf = Path(os.environ.get("CLEARML_CONFIG_FILE") or "~/clearml.conf").expanduser()
    own = platformdirs.user_config_path("squeeze", appauthor=False) / FILE_NAME
    places = [Path(FILE_NAME), own, conf] if explicit is None else [explicit]
    for path in places:
        if path.is_file() and path != conf:
            return read_credentials(path)
        if path.is_file() and (values := read_clearml_conf(path)):
            return checked_credentials(values, str(path), _INIT)
    listed = ", ".join(f"./{path}" if path == Path(FILE_NAME) else str(path) for path in places)
    raise ClearMLUnavailableError(f"ClearML credentials file not found (looked at {listed})", _INIT)


def read_credentials(path: Path) -> Credentials:
    """Read credentials from a YAML file; ClearMLUnavailableError lists the problems of the file."""
    rewrite = f"{_INIT} --overwrite{'' if path == Path(FILE_NAME) else f' --file {path}'}"
    try:
        values = read_yaml(path, f"{FIELDS[0]}: ...")
    except UsageError:  # its message quotes the file
        problem = f"{path} cannot be read as YAML that maps names to values"
        raise ClearMLUnavailableError(problem, rewrite) from None
    return checked_credentials(values, str(path), rewrite)


def read_clearml_conf(path: Path) -> dict[str, str]:
    """Read the values of ClearML's own `clearml.conf`; the result is empty without key and secret.

    A child process runs the parser of the SDK, whose import takes seconds and may wait for servers.
    """
    if find_spec("clearml") is None:
        problem = f"ClearML, which reads {path}, is not installed"
        raise ClearMLUnavailableError(problem, "pip install 'squeeze-cli[clearml]'")
    command = [sys.executable, "-m", "squeeze_cli.trackers.credentials", str(path)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=CONF_SECONDS, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):  # may quote the file
        raise ClearMLUnavailableError(f"{path} cannot be read as a clearml.conf", _INIT) from None
    values = {name: str(value) for name, value in zip(FIELDS, found, strict=True) if value}
    return values if "api_key" in values or "api_secret" in values else {}


def _parse_clearml_conf(path: str) -> list[object]:
    """Return the values of `_CONF_NAMES` in a file; the parser belongs to ClearML's SDK."""
    from clearml.utilities.pyhocon import ConfigFactory

    api = ConfigFactory.parse_file(path).get("api", {})
    return [api.get(name, None) for name in _CONF_NAMES]


def with_public_hosts(values: Mapping[str, object]) -> dict[str, object]:
    """Add missing hosts of ClearML's public server, unless `api_host` names another server."""
    public = PUBLIC_HOSTS["api_host"]
    is_public = str(values.get("api_host", public)).rstrip("/") == public
    return {**(PUBLIC_HOSTS if is_public else {}), **values}


def checked_credentials(values: Mapping[str, object], source: str, fix: str) -> Credentials:
    """Make credentials from a mapping; ClearMLUnavailableError lists all missing and invalid values."""
    values = with_public_hosts(values)
    problems = [f"an unknown key: {nearest(str(n), FIELDS)}" for n in values if n not in FIELDS]
    found = ((n, find_problem(n, values[n]) if n in values else "is missing") for n in FIELDS)
    problems += [f"{name} {problem}" for name, problem in found if problem]
    if problems:
        raise ClearMLUnavailableError(f"{source}: {'; '.join(problems)}", fix)
    texts = {name: str(values[name]).strip() for name in FIELDS}
    texts |= {name: texts[name].rstrip("/") for name in PUBLIC_HOSTS}
    return Credentials(**texts, source=source)


def find_problem(name: str, value: object) -> str | None:
    """Return the problem with the value of a field, as words after its name, or None."""
    if not isinstance(value, str) or not value.strip():
        return "must be text, and not empty"
    text = value.strip()
    if _PLACEHOLDER.search(text):
        return "is still the placeholder of the template"
    if not re.fullmatch(r"[!-~]+", text):
        return "must be ASCII, without blanks"
    if name not in PUBLIC_HOSTS:
        return None
    with suppress(ValidationError):
        url = HttpUrl(text)
        plain = url.username is None and url.query is None and url.fragment is None
        if plain and urlsplit(text).hostname:
            return None
    return f"must be a plain http:// or https:// URL such as {PUBLIC_HOSTS[name]}"


def write_credentials(path: Path, credentials: Credentials) -> None:
    """Write credentials to a YAML file that only its owner may read (mode 0600)."""
    text = "# ClearML credentials, by `squeeze clearml-init`. A secret: never commit it.\n"
    text += yaml.safe_dump({name: getattr(credentials, name) for name in FIELDS}, sort_keys=False)
    write_atomically(path, text, mode=0o600)


def probe(credentials: Credentials, seconds: float = 5.0) -> str | None:
    """Log in once; return None, or the reason of a failure in one line without secrets."""
    host = credentials.api_host
    answer = _get(f"{host}/auth.login", seconds, (credentials.api_key, credentials.api_secret))
    if isinstance(answer, str):
        return answer
    if answer.status_code in (401, 403):
        return f"{host} does not take these credentials (HTTP {answer.status_code})"
    if answer.status_code >= 500:
        return f"{host} answers with an error (HTTP {answer.status_code})"
    with suppress(ValueError, KeyError, TypeError):
        if answer.json()["data"]["token"]:
            return None
    return f"{host} answers, but not as a ClearML API server: check api_host"


def responds(url: str, seconds: float = 3.0) -> bool:
    """Return whether a server answers at `url`; the error page of a gateway does not count."""
    answer = _get(url, seconds)
    return not isinstance(answer, str) and answer.status_code < 500


def _get(url: str, seconds: float, login: tuple[str, str] | None = None) -> Response | str:
    """Return the answer, or the reason why none came within `seconds`."""
    import requests

    verify = switched_on("CLEARML_API_HOST_VERIFY_CERT", default=True)
    parts = urlsplit(url)
    host = f"{parts.scheme}://{parts.netloc}"
    results: list[Response | str] = [f"{host} does not answer within {seconds:.0f} seconds"]

    # In a thread, because neither a name look-up nor a slow answer has a time limit.
    def request() -> None:
        try:  # without redirects: the credentials are for this server alone
            results.append(
                requests.get(url, auth=login, timeout=seconds, allow_redirects=False, verify=verify)
            )
        except (requests.RequestException, OSError, ValueError) as error:
            kind = type(error).__name__
            text = next(text for word, text in _REASONS.items() if word in f"{kind} {error}")
            results.append(text.format(host=host, name=parts.hostname, kind=kind))

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[-1]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_parse_clearml_conf(sys.argv[1])) + "\n")
