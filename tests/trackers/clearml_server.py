"""A stand-in for a ClearML server on the loopback address: the calls that the real SDK makes.

It keeps what it is told (tasks, models, events, files) for the tests to read, and can be made to
refuse, to fail, or to be somebody else.
"""

from __future__ import annotations

import base64
import email.parser
import email.policy
import json
import re
import threading
import time
import uuid
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY, SECRET = "STANDINKEY0123456789", "verysecretsecretnobodymaysee0123456789abcd"


def token() -> str:
    """A JWT as the server's, unsigned; the SDK reads the API's version from it."""
    parts = ({"alg": "HS256", "typ": "JWT"}, {"api_version": "2.30", "server_version": "2.0.0"})
    encoded = [
        base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts
    ]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


def merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


class ClearMLServer:
    """`with ClearMLServer() as server:`; `server.url` is api_host, web_host and files_host."""

    def __init__(self, *, login_status: int = 200, clearml: bool = True) -> None:
        self.login_status = login_status
        self.clearml = clearml
        self.calls: list[str] = []
        self.tasks: dict[str, dict[str, Any]] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.queued: list[tuple[str, str]] = []
        self.authorizations: set[str] = set()
        self.lock = threading.Lock()
        self.upload_seconds = 0.0
        self.speaks = threading.Event()
        self.speaks.set()
        owner = self

        class Handler(_Handler):
            server_state = owner

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    def __enter__(self) -> ClearMLServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fall_silent(self) -> None:
        """From now on connections are taken, and never answered."""
        self.speaks.clear()

    def stop(self) -> None:
        """From now on connections are refused."""
        self.speaks.set()
        self._http.shutdown()
        self._http.server_close()

    def environment(self) -> dict[str, str]:
        """The variables that point squeeze and ClearML at this server."""
        return {
            "CLEARML_API_HOST": self.url,
            "CLEARML_WEB_HOST": self.url,
            "CLEARML_FILES_HOST": self.url,
            "CLEARML_API_ACCESS_KEY": KEY,
            "CLEARML_API_SECRET_KEY": SECRET,
        }

    def credentials_yaml(self) -> str:
        return (
            f"api_host: {self.url}\nweb_host: {self.url}\nfiles_host: {self.url}\n"
            f"api_key: {KEY}\napi_secret: {SECRET}\n"
        )

    @property
    def task(self) -> dict[str, Any]:
        """The only task."""
        (task,) = self.tasks.values()
        return task

    def scalars(self) -> dict[str, list[tuple[int, float]]]:
        """Points of each scalar, by `title/series`."""
        found: dict[str, list[tuple[int, float]]] = {}
        for event in self.events:
            if event["type"] == "training_stats_scalar":
                name = f"{event['metric']}/{event['variant']}"
                found.setdefault(name, []).append((event.get("iter", 0), event["value"]))
        return found

    # --- the API -----------------------------------------------------------------------------

    def answer(self, service: str, action: str, data: Any) -> dict[str, Any]:
        self.calls.append(f"{service}.{action}")
        method = getattr(self, f"{service}_{action}".replace("-", "_"), None)
        return method(data) if method else {}

    def tasks_create(self, data: dict[str, Any]) -> dict[str, Any]:
        identity = uuid.uuid4().hex
        self.tasks[identity] = {
            "id": identity, "status": "created", "system_tags": [], "tags": [], "script": {},
            "execution": {"artifacts": []}, "models": {"input": [], "output": []},
            "hyperparams": {}, "configuration": {}, "runtime": {}, "type": "training", "output": {},
            "status_message": "", "status_reason": "", "last_iteration": 0, **data,
        }  # fmt: skip
        return {"id": identity}

    def tasks_import(self, data: dict[str, Any]) -> dict[str, Any]:
        return self.tasks_create(data)

    def _edit(self, data: dict[str, Any]) -> dict[str, Any]:
        task = self.tasks[data["task"]]
        merge(task, {k: v for k, v in data.items() if k not in ("task", "force")})
        return {"updated": 1, "fields": {}}

    tasks_edit = tasks_update = _edit

    def tasks_get_by_id(self, data: dict[str, Any]) -> dict[str, Any]:
        return {"task": self.tasks[data["task"]]}

    def tasks_get_all(self, data: dict[str, Any]) -> dict[str, Any]:
        wanted = data.get("id") or list(self.tasks)
        wanted = [wanted] if isinstance(wanted, str) else wanted
        return {"tasks": [self.tasks[i] for i in wanted if i in self.tasks]}

    tasks_get_all_ex = tasks_get_all

    def tasks_edit_hyper_params(self, data: dict[str, Any]) -> dict[str, Any]:
        sections = self.tasks[data["task"]].setdefault("hyperparams", {})
        for item in data["hyperparams"]:
            sections.setdefault(item["section"], {})[item["name"]] = item
        return {"updated": 1}

    def tasks_edit_configuration(self, data: dict[str, Any]) -> dict[str, Any]:
        stored = self.tasks[data["task"]].setdefault("configuration", {})
        stored.update({item["name"]: item for item in data["configuration"]})
        return {"updated": 1}

    def tasks_add_or_update_artifacts(self, data: dict[str, Any]) -> dict[str, Any]:
        stored = self.tasks[data["task"]].setdefault("execution", {}).setdefault("artifacts", [])
        for artifact in data["artifacts"]:
            stored[:] = [a for a in stored if a["key"] != artifact["key"]]
            stored.append(artifact)
        return {"updated": 1}

    def tasks_add_or_update_model(self, data: dict[str, Any]) -> dict[str, Any]:
        models = self.tasks[data["task"]].setdefault("models", {}).setdefault(data["type"], [])
        models.append({"name": data["name"], "model": data["model"]})
        return {"updated": 1}

    def _status(self, name: str, data: dict[str, Any]) -> dict[str, Any]:
        task = self.tasks[data["task"]]
        task["status"] = name
        task["status_message"] = data.get("status_message") or task["status_message"]
        return {"updated": 1}

    def tasks_started(self, data: dict[str, Any]) -> dict[str, Any]:
        return self._status("in_progress", data)

    def tasks_completed(self, data: dict[str, Any]) -> dict[str, Any]:
        return self._status("completed", data)

    def tasks_stopped(self, data: dict[str, Any]) -> dict[str, Any]:
        return self._status("stopped", data)

    def tasks_failed(self, data: dict[str, Any]) -> dict[str, Any]:
        return self._status("failed", data)

    def tasks_set_requirements(self, data: dict[str, Any]) -> dict[str, Any]:
        self.tasks[data["task"]]["script"]["requirements"] = data["requirements"]
        return {"updated": 1}

    def tasks_enqueue(self, data: dict[str, Any]) -> dict[str, Any]:
        self.queued.append((data["task"], data.get("queue_name") or data.get("queue") or ""))
        self._status("queued", data)
        return {"updated": 1, "queued": 1}

    def queues_get_all(self, data: dict[str, Any]) -> dict[str, Any]:
        name = (data.get("name") or "gpus").strip("^$")
        return {"queues": [{"id": f"id-of-{name}", "name": name}] if "nowhere" not in name else []}

    queues_get_all_ex = queues_get_all

    def projects_get_all_ex(self, data: dict[str, Any]) -> dict[str, Any]:
        return {"projects": []}

    projects_get_all = projects_get_all_ex

    def projects_create(self, data: dict[str, Any]) -> dict[str, Any]:
        self.project = data["name"]
        return {"id": "project-id"}

    def projects_get_by_id(self, data: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"id": "project-id", "name": getattr(self, "project", "squeeze")}}

    def models_create(self, data: dict[str, Any]) -> dict[str, Any]:
        identity = uuid.uuid4().hex
        self.models[identity] = {"id": identity, "tags": [], "system_tags": [], **data}
        return {"id": identity, "created": True}

    def models_edit(self, data: dict[str, Any]) -> dict[str, Any]:
        merge(self.models[data["model"]], data)
        return {"updated": 1, "fields": {}}

    models_update = models_edit

    def models_get_by_id(self, data: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.models[data["model"]]}

    def models_get_all(self, data: dict[str, Any]) -> dict[str, Any]:
        wanted = data.get("id") or []
        return {"models": [self.models[i] for i in wanted if i in self.models]}

    models_get_all_ex = models_get_all

    def events_add_batch(self, data: list[dict[str, Any]]) -> dict[str, Any]:
        self.events.extend(data)
        return {"added": len(data), "errors": 0}

    def users_get_current_user(self, data: dict[str, Any]) -> dict[str, Any]:
        return {"user": {"id": "user-id", "company": {"id": "company-id"}}}


class _Handler(BaseHTTPRequestHandler):
    server_state: ClearMLServer
    protocol_version = "HTTP/1.0"  # a connection each: none outlives `stop`

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        self.server_state.speaks.wait()
        if body and (self.headers.get("Content-Type") or "").startswith("multipart/"):
            time.sleep(self.server_state.upload_seconds)
        match = re.fullmatch(r"/(?:v[\d.]+/)?(\w+)\.(\w+)(?:\?.*)?", self.path)
        state = self.server_state
        with state.lock:
            if not state.clearml:
                self._send(200, b"<html>A shop.</html>", "text/html")
            elif match is None:
                self._store_file(body)
            elif match.groups() == ("auth", "login"):
                self._log_in()
            else:
                self._call(match[1], match[2], body)

    do_GET = do_POST = do_PUT = do_HEAD = _handle  # noqa: N815

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _log_in(self) -> None:
        wanted = "Basic " + base64.b64encode(f"{KEY}:{SECRET}".encode()).decode()
        state = self.server_state
        if state.login_status != 200:
            self._reply(state.login_status, {}, "as the test wants it")
        elif self.headers.get("Authorization") != wanted:
            self._reply(401, {}, "Unauthorized (invalid credentials)")
        else:
            state.calls.append("auth.login")
            self._reply(200, {"token": token()})

    def _call(self, service: str, action: str, body: bytes) -> None:
        state = self.server_state
        if self.headers.get("Authorization") != f"Bearer {token()}" and service != "debug":
            self._reply(401, {}, "Unauthorized")
            return
        text = body.decode()
        if self.headers.get("Content-Type") == "application/json-lines":
            data: Any = [json.loads(line) for line in text.splitlines() if line]
        else:
            data = json.loads(text) if text else {}
        try:
            self._reply(200, state.answer(service, action, data))
        except KeyError as error:
            self._reply(400, {}, f"Invalid {service}.{action}: {error}")

    def _store_file(self, body: bytes) -> None:
        """The files server: one multipart field whose name is the path."""
        kind = self.headers.get("Content-Type") or ""
        if body and kind.startswith("multipart/"):
            header = f"Content-Type: {kind}\r\n\r\n".encode()
            message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(header + body)
            for part in message.iter_parts():
                name = part.get_param("name", header="content-disposition")
                self.server_state.files[str(name)] = part.get_payload(decode=True)
        self._send(200, b"{}", "application/json")

    def _reply(self, status: int, data: dict[str, Any], message: str = "OK") -> None:
        meta = {
            "id": "1", "trx": "1", "result_code": status, "result_subcode": 0,
            "result_msg": message, "error_stack": "",
            "endpoint": {"name": self.path, "requested_version": "2.30", "actual_version": "2.30"},
        }  # fmt: skip
        self._send(status, json.dumps({"meta": meta, "data": data}).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        with suppress(ConnectionError):  # whoever asked has given up
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""
