"""`squeeze clearml-init` as a person uses it, on a pseudo-terminal, and as a script does."""

from __future__ import annotations

import os
import pty
import select
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from squeeze_cli.commands.clearml_init import keep_out_of_git
from squeeze_cli.trackers.credentials import read_credentials
from tests.conftest import EXECUTABLE, Squeeze
from tests.trackers.clearml_server import KEY, SECRET, ClearMLServer
from tests.trackers.dead_ends import refused

FILE = "clearml_credentials.yaml"
posix = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")


def flags(url: str) -> list[str]:
    return ["clearml-init", "--api-host", url, "--web-host", url, "--files-host", url,
            "--api-key", KEY, "--api-secret", SECRET, "--non-interactive"]  # fmt: skip


class Terminal:
    """A program on a pseudo-terminal: what it shows, echo included, and what is typed to it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.shown = ""
        self._controller, device = pty.openpty()
        self._process = subprocess.Popen(
            [str(EXECUTABLE), *arguments], cwd=folder, stdin=device, stdout=device, stderr=device,
            env={**os.environ, "COLUMNS": "80", "TERM": "dumb"}, start_new_session=True,
        )  # fmt: skip
        os.close(device)

    def expect(self, text: str, seconds: float = 30) -> None:
        """Read until the program has shown `text`; what was shown up to there counts as read."""
        deadline = time.monotonic() + seconds
        while text not in self._unread():
            assert time.monotonic() < deadline, f"no {text!r} in {self.shown!r}"
            if select.select([self._controller], [], [], 0.2)[0]:
                self._read()
        self._seen = self.shown.index(text, self._seen) + len(text)

    def type(self, text: str) -> None:
        time.sleep(0.2)  # a person does not type before the terminal has hidden the input
        os.write(self._controller, text.encode())

    def end(self) -> int:
        code = self._process.wait(timeout=30)
        with suppress(OSError):
            while select.select([self._controller], [], [], 0.2)[0]:
                self._read()
        os.close(self._controller)
        return code

    _seen = 0

    def _unread(self) -> str:
        return self.shown[self._seen :]

    def _read(self) -> None:
        self.shown += os.read(self._controller, 4096).decode(errors="replace")


@posix
def test_value_by_value(tmp_path: Path, server: ClearMLServer) -> None:
    terminal = Terminal(tmp_path, "clearml-init")
    terminal.expect("API server [https://api.clear.ml]: ")
    terminal.type("app.clear.ml\n")
    terminal.expect("must be a plain http:// or https:// URL")
    terminal.expect("API server")
    terminal.type(f"{server.url}/\n")
    terminal.expect("Web application: ")
    terminal.type(f"{server.url}\n")
    terminal.expect("File server: ")
    terminal.type(f"{server.url}\n")
    terminal.expect("Access key: ")
    terminal.type(f"{KEY}\n")
    terminal.expect("Secret key (hidden): ")
    terminal.type(f"{SECRET}\n")
    terminal.expect(f"Wrote {FILE}")
    assert terminal.end() == 0
    assert SECRET not in terminal.shown
    assert KEY in terminal.shown  # typed in the open: what is hidden is hidden on purpose
    path = tmp_path / FILE
    assert read_credentials(path).api_secret == SECRET
    assert read_credentials(path).api_host == server.url
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert server.calls == ["auth.login"]


@posix
def test_ctrl_c_writes_nothing(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "clearml-init")
    terminal.expect("API server")
    time.sleep(0.3)
    os.killpg(terminal._process.pid, 2)
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown
    assert list(tmp_path.iterdir()) == []


def test_by_flags(squeeze: Squeeze, tmp_path: Path, server: ClearMLServer) -> None:
    done = squeeze(*flags(server.url))
    assert f"Wrote {FILE} (tested)" in done.stderr
    assert done.stdout == ""
    assert SECRET not in done.stderr
    assert yaml.safe_load((tmp_path / FILE).read_text())["api_secret"] == SECRET


def test_by_the_environment(squeeze: Squeeze, tmp_path: Path, server: ClearMLServer) -> None:
    squeeze("clearml-init", "--non-interactive", "--file", "sub/mine.yaml",
            env=server.environment())  # fmt: skip
    assert read_credentials(tmp_path / "sub" / "mine.yaml").api_key == KEY


def test_an_existing_file_is_kept_unless_told_otherwise(
    squeeze: Squeeze, tmp_path: Path, server: ClearMLServer
) -> None:
    (tmp_path / FILE).write_text("mine")
    assert "--overwrite" in squeeze(*flags(server.url), code=2).stderr
    assert (tmp_path / FILE).read_text() == "mine"
    squeeze(*flags(server.url), "--overwrite")
    assert SECRET in (tmp_path / FILE).read_text()


def test_what_the_server_does_not_take_is_not_written(squeeze: Squeeze, tmp_path: Path) -> None:
    with refused() as url:
        failed = squeeze(*flags(url), code=1)
        assert "refuses the connection" in failed.stderr
        assert "Nothing was written" in failed.stderr
        assert not (tmp_path / FILE).exists()
        assert "(not tested)" in squeeze(*flags(url), "--no-check").stderr
    assert (tmp_path / FILE).exists()


def test_without_a_terminal_everything_must_be_given(squeeze: Squeeze) -> None:
    done = squeeze("clearml-init", "--api-key", KEY, code=2)
    assert "api_secret is missing: give others, by options" in done.stderr
    placeholder = squeeze("clearml-init", "--api-key", KEY, "--api-secret", "YOUR_SECRET_KEY",
                          "--non-interactive", code=2)  # fmt: skip
    assert "api_secret is still the placeholder" in placeholder.stderr


def test_the_file_is_kept_out_of_git(squeeze: Squeeze, tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / ".gitignore").write_text("*.log")
    with refused() as url:
        squeeze(*flags(url), "--no-check")
        squeeze(*flags(url), "--no-check", "--file", "deep/er/mine.yaml")
        squeeze(*flags(url), "--no-check", "--overwrite")
    assert (tmp_path / ".gitignore").read_text() == "*.log"  # not the user's own file
    status = subprocess.run(
        [*git, "status", "--porcelain", "-uall"], capture_output=True, text=True, check=True
    )
    assert status.stdout.split() == ["??", ".gitignore"]
    exclude = (tmp_path / ".git" / "info" / "exclude").read_text().splitlines()
    assert [exclude.count(name) for name in (FILE, "mine.yaml")] == [1, 1]


def test_a_list_of_ignored_files_without_a_last_newline_is_kept(tmp_path: Path) -> None:
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    exclude = tmp_path / ".git" / "info" / "exclude"
    exclude.parent.mkdir(exist_ok=True)
    exclude.write_text("*.log")
    keep_out_of_git(tmp_path / FILE)
    assert {"*.log", FILE} <= set(exclude.read_text().splitlines())


def test_outside_git_there_is_nothing_to_ignore(tmp_path: Path) -> None:
    keep_out_of_git(tmp_path / FILE)
    assert list(tmp_path.iterdir()) == []


def test_the_help_costs_nothing_heavy() -> None:
    code = (
        "import sys\nfrom squeeze_cli.cli import app\n"
        "for name in ('clearml-init', 'doctor', 'train'):\n"
        "    try: app([name, '--help'])\n    except SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'clearml', 'matplotlib', 'requests'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.strip() == "[]"
