"""Is there a ClearML server, and does it take these credentials? Known within five seconds.

ClearML's own `Task.init` retries for minutes, in silence, against a server that does not answer;
so it is only called after this probe has logged in once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from squeeze_cli.config.resolve import switched_on

if TYPE_CHECKING:
    import requests

    from squeeze_cli.trackers.credentials import Credentials

T = TypeVar("T")
# For everything together: name look-up, connection, TLS and the answer.
PROBE_SECONDS = 5.0


def probe(credentials: Credentials, seconds: float = PROBE_SECONDS) -> str | None:
    """Log in once; None if the server takes the credentials, else why not, in one line.

    The reason never holds a secret. Returns after `seconds` at the latest.
    """
    late: str | None = f"{credentials.api_host} does not answer within {seconds:.0f} seconds"
    return _within(seconds, partial(_log_in, credentials, seconds), late)


def responds(url: str, seconds: float = 2.0) -> bool:
    """Whether anything but a gateway's error answers at `url` within `seconds`."""
    return _within(seconds, partial(_answers, url, seconds), False)


def _within(seconds: float, call: Callable[[], T], late: T) -> T:
    """Return the result of `call`, or `late` if it takes longer.

    The look-up of a name, and an answer that trickles in, have no time limit of their own: so all
    of it happens in a thread that may be left behind.
    """
    import requests  # noqa: F401 - here, for the seconds are the server's, not the import's

    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(call()), name="probe", daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else late


def _answers(url: str, seconds: float) -> bool:
    import requests

    try:
        answer = requests.get(
            url, timeout=seconds, allow_redirects=False, verify=verify_certificates(), stream=True
        )
    except (requests.RequestException, OSError, ValueError):
        return False
    answer.close()
    return answer.status_code < 500


def verify_certificates() -> bool:
    """Return CLEARML_API_HOST_VERIFY_CERT as ClearML reads it; True where it is not set."""
    return switched_on("CLEARML_API_HOST_VERIFY_CERT", default=True)


def _log_in(credentials: Credentials, seconds: float) -> str | None:
    import requests

    host = credentials.api_host
    try:
        answer = requests.get(
            f"{host}/auth.login",
            auth=(credentials.api_key, credentials.api_secret),
            timeout=seconds,
            allow_redirects=False,  # the credentials are for this server alone
            verify=verify_certificates(),
        )
    except (requests.RequestException, OSError, ValueError) as error:
        return _why(error, host)
    return _judge(answer, host)


def _why(error: BaseException, host: str) -> str:
    """The innermost reason of a failed connection, in plain words."""
    import requests

    text = f"{type(error).__name__} {error}"
    if isinstance(error, requests.exceptions.SSLError) or "SSL" in text:
        detail = "its certificate is not trusted" if "CERTIFICATE_VERIFY" in text else "TLS failed"
        return f"no secure connection to {host} ({detail})"
    if isinstance(error, requests.exceptions.Timeout):
        return f"{host} does not answer in time"
    if "NameResolution" in text or "getaddrinfo" in text or isinstance(error, UnicodeError):
        return f"the host name {urlsplit(host).hostname} is not known"
    if "refused" in text:
        return f"{host} refuses the connection: no server runs there"
    if "unreachable" in text or "No route" in text:
        return f"there is no way to {host} from here"
    return f"the connection to {host} failed ({type(error).__name__})"


def _judge(answer: requests.Response, host: str) -> str | None:
    if answer.status_code in (401, 403):
        return f"{host} does not take these credentials (HTTP {answer.status_code})"
    if answer.status_code >= 500:
        return f"{host} is there but fails (HTTP {answer.status_code})"
    try:
        content = answer.json()
        token = content["data"]["token"] if answer.status_code == 200 else None
        is_clearml = isinstance(content["meta"], dict)
    except (ValueError, KeyError, TypeError):
        token, is_clearml = None, False
    if token:
        return None
    if is_clearml:
        return f"{host} does not let us log in (HTTP {answer.status_code})"
    return f"{host} answers, but not as a ClearML API server: check api_host"
