from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from squeeze_cli.commands import doctor
from squeeze_cli.commands.doctor import ERROR, OK, WARNING, Check, run_checks
from squeeze_cli.trackers.credentials import ENVIRONMENT
from tests.conftest import Squeeze
from tests.trackers.clearml_server import KEY, SECRET, ClearMLServer


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*ENVIRONMENT.values(), "CLEARML_CONFIG_FILE"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HOME", "XDG_CONFIG_HOME", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))


def checks(squeeze: Squeeze, *arguments: str, code: int = 0) -> dict[str, dict[str, str]]:
    shown = json.loads(squeeze("doctor", *arguments, "--json", code=code).stdout)
    return {check["name"]: check for check in shown["checks"]}


def test_a_machine_with_nothing_but_squeeze(squeeze: Squeeze) -> None:
    found = checks(squeeze)
    for name in ("python", "squeeze", "torch", "clearml", "device", "cache",
                 "weights efficientnet-lite0"):  # fmt: skip
        assert found[name]["status"] == OK, found[name]
    for name, fix in {
        "data": "--dataset synthetic",
        "weights vit": "https://",
        "weights deeplab": "https://",
        "clearml credentials": "squeeze clearml-init",
    }.items():
        assert found[name]["status"] == WARNING
        assert fix in found[name]["fix"]
    assert "clearml server" not in found


@pytest.mark.parametrize(
    ("kept", "compiled", "status"), [(True, False, OK), (False, True, OK), (False, False, WARNING)]
)
def test_packages_that_are_compiled_at_every_start(
    kept: bool, compiled: bool, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.pyc").touch()
    place = tmp_path / ("torch.pyc" if compiled else "none.pyc")
    monkeypatch.setattr(doctor, "cache_from_source", lambda origin: str(place))
    monkeypatch.setattr("sys.dont_write_bytecode", not kept)
    (check,) = doctor.check_bytecode()
    assert check.status == status
    assert (check.fix is not None) == (status == WARNING)


def test_a_line_a_check_for_people(squeeze: Squeeze) -> None:
    lines = squeeze("doctor").stdout.splitlines()
    begun = [line for line in lines if not line.startswith(" ")]  # the others go on with one
    assert {line.split()[0] for line in begun} == {OK, WARNING}
    assert any(line.startswith("ok      torch: ") for line in lines)
    assert max(map(len, lines)) <= 80


def test_the_server_is_tried_and_the_secret_never_shown(squeeze: Squeeze, tmp_path: Path) -> None:
    with ClearMLServer() as server:
        path = tmp_path / "mine.yaml"
        path.write_text(server.credentials_yaml())
        path.chmod(0o644)
        done = squeeze("doctor", "--credentials", str(path), "--json")
        found = {c["name"]: c for c in json.loads(done.stdout)["checks"]}
        assert found["clearml server"]["status"] == OK
        assert found["clearml credentials"]["status"] == WARNING
        assert "chmod 600" in found["clearml credentials"]["fix"]
        assert SECRET not in done.stdout + done.stderr
        assert KEY not in done.stdout + done.stderr
    found = checks(squeeze, "--credentials", str(path))
    assert found["clearml server"]["status"] == WARNING
    assert "refuses the connection" in found["clearml server"]["found"]


def test_placeholders_are_named_with_the_command_that_replaces_them(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    path = tmp_path / "clearml_credentials.yaml"
    path.write_text("api_key: YOUR_ACCESS_KEY\n")
    found = checks(squeeze)["clearml credentials"]
    assert found["status"] == WARNING
    assert "api_key is still the placeholder" in found["found"]
    assert found["fix"] == "run: squeeze clearml-init --overwrite"


def test_real_photographs_are_counted(squeeze: Squeeze, real_data: Path) -> None:
    found = checks(squeeze, "--data-dir", str(real_data))["data"]
    assert found["status"] == OK
    assert "300 to train on, 149 for the test" in found["found"]


def test_what_keeps_squeeze_from_working_is_an_error(
    squeeze: Squeeze, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)  # root may write anywhere
    found = checks(squeeze, "--cache-dir", str(tmp_path / "cache"), code=1)
    assert found["cache"]["status"] == ERROR
    assert "--cache-dir" in found["cache"]["fix"]


def test_a_file_in_the_place_of_the_cache_is_an_error(squeeze: Squeeze, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = checks(squeeze, "--cache-dir", str(tmp_path / "file"), code=1)
    assert found["cache"]["status"] == ERROR
    assert "--cache-dir" in found["cache"]["fix"]


def test_a_check_that_breaks_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_devices() -> Iterator[Check]:
        yield Check("device", OK, "cpu")
        raise OSError("no such device")

    monkeypatch.setattr(doctor, "check_devices", check_devices)
    found = {check.name: check for check in run_checks(Path("none"), None, None)}
    assert found["device"].status == OK
    assert found["devices"].status == ERROR
    assert "no such device" in found["devices"].found
    assert "squeeze" in found
