from __future__ import annotations

import stat
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import yaml

from squeeze_cli.trackers.credentials import (
    FIELDS,
    ClearMLUnavailableError,
    Credentials,
    checked_credentials,
    find_credentials,
    read_clearml_conf,
    read_credentials,
    write_credentials,
)

SECRET = "s3cr3ts3cr3ts3cr3t"
VALUES = {
    "api_host": "http://api.example:8008",
    "web_host": "http://web.example:8080",
    "files_host": "http://files.example:8081",
    "api_key": "KEY0",
    "api_secret": SECRET,
}
GOOD = Credentials(**VALUES)


def find_problems(values: dict[str, Any]) -> list[str]:
    """The problems of values that cannot be used."""
    with pytest.raises(ClearMLUnavailableError) as caught:
        checked_credentials(values, "here", "fix")
    return caught.value.problem.removeprefix("here: ").split("; ")


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def user_file() -> Path:
    return platformdirs.user_config_path("squeeze", appauthor=False) / "clearml_credentials.yaml"


def write(path: Path, values: Any, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    path.chmod(mode)
    return path


def test_written_and_read_again_by_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "clearml_credentials.yaml"
    write_credentials(path, GOOD)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = read_credentials(path)
    assert found == GOOD
    assert found.warning == ""
    assert list(path.parent.iterdir()) == [path]


def test_the_first_place_decides_and_places_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keyed(key: str) -> dict[str, str]:
        return {**VALUES, "api_key": key}

    conf = "api { api_server: http://c.example\n web_server: http://c.example\n"
    conf += "files_server: http://c.example\n"
    conf += f'credentials {{ "access_key" = "CONF", "secret_key" = "{SECRET}" }} }}'
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(write(tmp_path / "my.conf", conf)))
    assert find_credentials().api_key == "CONF"
    assert find_credentials().files_host == "http://c.example"
    write(user_file(), keyed("USER"))
    assert find_credentials().api_key == "USER"
    write(tmp_path / "clearml_credentials.yaml", keyed("HERE"))
    assert find_credentials().api_key == "HERE"
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "ENV")
    monkeypatch.setenv("CLEARML_API_SECRET_KEY", "other")
    assert find_credentials().api_key == "ENV"
    assert find_credentials().api_secret == "other"
    assert find_credentials().api_host == "https://api.clear.ml"  # not that of the file
    explicit = write(tmp_path / "mine.yaml", keyed("MINE"))
    assert find_credentials(explicit).api_key == "MINE"


def test_missing_says_where_it_looked_and_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ClearMLUnavailableError) as caught:
        find_credentials()
    message = str(caught.value)
    assert message.startswith("ClearML credentials file not found")
    assert "./clearml_credentials.yaml" in message
    assert str(user_file()) in message
    assert message.endswith("run: squeeze clearml-init")
    with pytest.raises(ClearMLUnavailableError, match=r"not found \(looked at .*none\.yaml\)"):
        find_credentials(tmp_path / "none.yaml")


def test_a_file_that_others_can_read_is_warned_about(tmp_path: Path) -> None:
    loose = write(tmp_path / "loose.yaml", VALUES, 0o640)
    assert f"chmod 600 {loose}" in read_credentials(loose).warning


def test_every_problem_is_named() -> None:
    problems = find_problems(
        {"api_host": "app.clear.ml", "web_host": "YOUR_WEB_HOST", "api_secrte": SECRET,
         "files_host": "https://user:pw@files.example", "api_key": "with blank"},
    )  # fmt: skip
    text = "; ".join(problems)
    assert "api_host must be a plain http:// or https:// URL" in text
    assert "web_host is still the placeholder" in text
    assert "files_host must be a plain http:// or https:// URL" in text
    assert "api_key must be ASCII, without blanks" in text
    assert "api_secret is missing" in text
    assert "an unknown key: did you mean 'api_secret'" in text
    assert len(problems) == 6
    assert SECRET not in text


@pytest.mark.parametrize(
    "value", [None, "", 5, "http://", "http://h:99999", "ftp://h", "http://h/?a"]
)
def test_urls_that_are_none(value: Any) -> None:
    assert len(find_problems({**VALUES, "api_host": value})) == 1


@pytest.mark.parametrize(
    "text",
    [f"api_secret: {SECRET}\n  bad: [", f"- {SECRET}", f"'{SECRET}", f"api_secret: [{SECRET}]"],
)
def test_no_message_repeats_the_secret(tmp_path: Path, text: str) -> None:
    with pytest.raises(ClearMLUnavailableError) as caught:
        read_credentials(write(tmp_path / "bad.yaml", text))
    assert SECRET not in str(caught.value)
    # A chained YAML error would quote the file in the traceback.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_the_fix_of_a_bad_file_is_a_command_that_replaces_it(tmp_path: Path) -> None:
    with pytest.raises(ClearMLUnavailableError, match=r"run: squeeze clearml-init --overwrite$"):
        read_credentials(write(Path("clearml_credentials.yaml"), "[]"))
    with pytest.raises(ClearMLUnavailableError, match=r"--overwrite --file \S*other\.yaml$"):
        read_credentials(write(tmp_path / "other.yaml", {"api_key": "YOUR_KEY"}))


def test_key_and_secret_are_in_no_repr() -> None:
    assert SECRET not in repr(GOOD)
    assert "KEY0" not in f"{GOOD}"


def test_half_of_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "x")
    with pytest.raises(
        ClearMLUnavailableError, match="CLEARML_API_SECRET_KEY: api_secret is missing: set both"
    ):
        find_credentials()


def test_the_template_ships_with_the_package_and_every_placeholder_is_named() -> None:
    template = files("squeeze_cli.trackers") / "clearml_credentials.yaml.example"
    values = yaml.safe_load(template.read_text())
    assert tuple(values) == FIELDS
    assert [p.split()[0] for p in find_problems(values)] == ["api_key", "api_secret"]


@pytest.mark.parametrize(
    "block",
    [
        "api {\n  # a comment { with a brace\n  web_server: http://web.example:8080/\n"
        "  api_server: http://api.example:8008\n  files_server: http://files.example:8081\n"
        '  credentials {\n    "access_key" = "KEY0"\n    "secret_key" = "s3cr3ts3cr3ts3cr3t"\n  }\n}\n',
        "api{web_server=http://web.example:8080, api_server=http://api.example:8008,\n"
        "files_server=http://files.example:8081\n"
        'credentials{access_key:KEY0,secret_key:"s3cr3ts3cr3ts3cr3t"}}\n'
        "sdk { aws { s3 { key: NOT\n secret_key: NOT } } }",
        "sdk { secret_key: NOT, api_server: NOT }\nhost = example\napi.api_server = http://api.example:8008\n"
        'api: {\r\n web_server = "http://web."${host}":8080"\r\n '
        "files_server = http://files.example:8081 // why\r\n"
        "credentials { access_key: KEY0\r\n secret_key: ${?MY_SECRET}\r\n } }",
    ],
    ids=["as shown by ClearML", "dense, with other sections", "with variables"],
)
def test_clearmls_own_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str
) -> None:
    monkeypatch.setenv("MY_SECRET", SECRET)
    values = read_clearml_conf(write(tmp_path / "my.conf", block))
    assert {k: v.rstrip("/") for k, v in values.items()} == VALUES


def test_the_sdk_is_not_imported_to_read_a_conf(tmp_path: Path) -> None:
    conf = write(tmp_path / "my.conf", "api { credentials { access_key: KEY0, secret_key: S } }")
    code = (
        "import sys; from pathlib import Path\n"
        "from squeeze_cli.trackers.credentials import read_clearml_conf\n"
        f"assert read_clearml_conf(Path({str(conf)!r})) == "
        "{'api_key': 'KEY0', 'api_secret': 'S'}\n"
        "assert 'clearml' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("text", ["api { secret: [SECRET", "api { secret: ${SECRET} }"])
def test_a_broken_conf_is_named_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    conf = write(tmp_path / "my.conf", text.replace("SECRET", SECRET))
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(conf))
    with pytest.raises(ClearMLUnavailableError, match=r"my\.conf cannot be read") as caught:
        find_credentials()
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_conf_without_credentials_is_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = write(tmp_path / "my.conf", "sdk { storage { } }")
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(conf))
    with pytest.raises(ClearMLUnavailableError, match="not found"):
        find_credentials()
