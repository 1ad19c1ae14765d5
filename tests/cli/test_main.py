"""The command line itself: what it refuses, and how."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from negd import __version__
from negd.cli import status
from negd.cli.main import main
from negd.cli.show_peer import MOST_ENTRIES
from negd.control import operators
from negd.errors import StorageError

Capture = pytest.CaptureFixture[str]


def run(*argv: str) -> int:
    """The exit status, however it comes."""
    try:
        return main(argv)
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code


def test_the_version_is_the_packages(capsys: Capture) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"negctl {__version__}\n"


@pytest.mark.parametrize("argv", [["--help"], ["sync", "--help"], ["peers", "add", "--help"]])
def test_help_is_help(argv: list[str], capsys: Capture) -> None:
    assert run(*argv) == 0
    assert capsys.readouterr().out.startswith("usage: negctl")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["peers"], "the following arguments are required: ACTION"),
        (["peers", "add"], "the following arguments are required: URL"),
        (["peers", "show"], "the following arguments are required: URL"),
        (["peers", "show", "x", "--entries", "-1"], "--entries"),
        (["peers", "show", "x", "--entries", "all"], "'all' is not a number of events"),
        (["peers", "show", "x", "--entries", "1001"], "1001 is more than 1,000"),
        (["peers", "add", "http://x"], "(scheme 'http'); a bare host is taken as wss://HOST"),
        (["peers", "remove", ""], "peer '': expected ws://HOST[:PORT] or wss://HOST"),
        (["trigger", "ws://"], "peer 'ws://': expected"),
        (["sync", "a b"], "peer 'a b': expected"),
        (["--control", "nonsense", "status"], "control address 'nonsense': expected HOST:PORT or"),
        (["sync"], "the following arguments are required: URL"),
        (["sync", "wss://a", "--since", "-1"], "--since"),
        (["sync", "wss://a", "--since", "yesterday"], "'yesterday' is not a Unix time in seconds"),
        (["sync", "wss://a", "--since", "9" * 30], "is not a Unix time in seconds"),
        (["sync", "wss://a", "--filter", "{"], "filter is not JSON"),
        (["trigger", "--filter", '{"kinds":[-1]}'], "filter field kinds is not a number"),
        (["export", "--store", "memory:", "--filter", "[]"], "filter is not an object"),
        (["import", "file"], "the following arguments are required: --store"),
        (["sessions", "close"], "the following arguments are required: ID"),
    ],
)
def test_misuse_is_one_line_and_status_2(argv: list[str], text: str, capsys: Capture) -> None:
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("negctl: ")
    assert text in captured.err
    assert captured.err.count("\n") == 1


def test_as_many_entries_may_be_asked_for_as_the_service_tells() -> None:
    assert MOST_ENTRIES == operators.MOST_ENTRIES


def test_the_help_names_every_action_on_peers(capsys: Capture) -> None:
    assert run("--help") == 0
    assert "list, show, add or remove peers, or forget" in " ".join(capsys.readouterr().out.split())


def test_an_address_that_is_none_is_named(capsys: Capture) -> None:
    assert run("--control", "nowhere", "status") == 2
    assert capsys.readouterr().err == (
        "negctl: control address 'nowhere': expected HOST:PORT or unix:PATH\n"
    )


def address_of(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address that a command would call."""
    found: list[str] = []

    def note(args: argparse.Namespace) -> int:
        found.append(args.control)
        return 0

    monkeypatch.setattr(status, "run", note)
    assert main(argv) == 0
    return found[0]


def test_the_address_comes_from_option_environment_or_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NEGD_CONTROL", raising=False)
    assert address_of(["status"], monkeypatch) == "127.0.0.1:50064"
    monkeypatch.setenv("NEGD_CONTROL", "a:1")
    assert address_of(["status"], monkeypatch) == "a:1"
    assert address_of(["--control", "b:1", "status"], monkeypatch) == "b:1"
    assert address_of(["status", "--control", "c:1"], monkeypatch) == "c:1"
    assert address_of(["--control", "b:1", "status", "--control", "c:1"], monkeypatch) == "c:1"


@pytest.mark.parametrize(
    ("error", "status_code", "text"),
    [
        (StorageError("disk full"), 1, "disk full"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (FileNotFoundError(2, "No such file or directory", "x"), 1, "x: No such file or directory"),
        (ZeroDivisionError("oh"), 1, "internal error: ZeroDivisionError('oh')"),
    ],
)
def test_whatever_goes_wrong_is_one_line(
    error: BaseException,
    status_code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(status, "run", fail)
    assert run("status") == status_code
    assert capsys.readouterr().err == f"negctl: {text}\n"


def imported_after(code: str) -> set[str]:
    """The modules that are there once ``code`` ran in a fresh interpreter."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_nothing_heavy_is_imported_before_a_command_needs_it() -> None:
    modules = imported_after("from negd.cli.main import make_parser\nmake_parser('x:1')")
    assert modules.isdisjoint({"grpc", "google.protobuf", "twisted", "numpy", "tqdm", "lmdb"})


def test_commands_for_the_daemon_start_no_reactor_and_those_for_stores_no_grpc() -> None:
    remote = imported_after(
        "from negd.cli.main import main\nmain(['status','--control','[::1]:1'])"
    )
    assert "grpc" in remote
    assert "twisted.internet.reactor" not in remote
    local = imported_after("from negd.cli import importing, stores")
    assert "grpc" not in local
