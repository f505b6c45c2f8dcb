"""The first look at a ClearML server: whether it is there and takes the credentials.

ClearML's own `Task.init` repeats requests to a silent server for minutes, without a message. It is
therefore only called after this probe, which takes five seconds at most.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from squeeze_cli.config.resolve import switched_on
from squeeze_cli.trackers.credentials import Credentials

if TYPE_CHECKING:
    import requests

PROBE_SECONDS = 5.0  # for name look-up, connection, TLS and answer together


def probe(credentials: Credentials, seconds: float = PROBE_SECONDS) -> str | None:
    """Log in once.

    Returns:
        None if the server takes the credentials, else the reason in one line without any secret.
    """
    host = credentials.api_host
    answer = _get(f"{host}/auth.login", seconds, (credentials.api_key, credentials.api_secret))
    if isinstance(answer, str):
        return answer
    if answer.status_code in (401, 403):
        return f"{host} does not take these credentials (HTTP {answer.status_code})"
    if answer.status_code >= 500:
        return f"{host} is there but fails (HTTP {answer.status_code})"
    try:
        logged_in = bool(answer.json()["data"]["token"])
    except (ValueError, KeyError, TypeError):
        logged_in = False
    return None if logged_in else f"{host} answers, but not as a ClearML API server: check api_host"


def responds(url: str, seconds: float = 2.0) -> bool:
    """Return whether a server answers at `url`; the error page of a gateway does not count."""
    answer = _get(url, seconds)
    return not isinstance(answer, str) and answer.status_code < 500


def _get(url: str, seconds: float, login: tuple[str, str] | None = None) -> requests.Response | str:
    """Return the answer, or the reason why there is none after `seconds`.

    A name look-up has no time limit of its own, nor has an answer that arrives byte by byte. So the
    request has a thread to itself, which is left behind if it takes too long.
    """
    import requests

    parts = urlsplit(url)
    host = f"{parts.scheme}://{parts.netloc}"
    results: list[requests.Response | str] = []

    def request() -> None:
        try:
            results.append(
                requests.get(
                    url,
                    auth=login,
                    timeout=seconds,
                    allow_redirects=False,  # the credentials are for this server alone
                    verify=switched_on("CLEARML_API_HOST_VERIFY_CERT", default=True),
                )
            )
        except (requests.RequestException, OSError, ValueError) as error:
            results.append(_reason(f"{type(error).__name__} {error}", host))

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else f"{host} does not answer within {seconds:.0f} seconds"


def _reason(error: str, host: str) -> str:
    """Say in plain words why a connection failed."""
    if "SSL" in error:
        detail = "its certificate is not trusted" if "CERTIFICATE_VERIFY" in error else "TLS failed"
        return f"no secure connection to {host} ({detail})"
    if "Timeout" in error:
        return f"{host} does not answer in time"
    if "NameResolution" in error:
        return f"the host name {urlsplit(host).hostname} is not known"
    if "refused" in error:
        return f"{host} refuses the connection: no server runs there"
    return f"the connection to {host} failed ({error.split()[0]})"
