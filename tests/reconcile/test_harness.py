"""tests/harness.py, driven as the reference's suite drives it: two processes and a pipe to each."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HARNESS = Path(__file__).parents[1] / "harness.py"


class Peer:
    """One side, as a process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.stdin, self.stdout = process.stdin, process.stdout

    def tell(self, *lines: str) -> None:
        self.stdin.writelines(f"{line}\n" for line in lines)
        self.stdin.flush()

    def hear(self) -> str:
        line = self.stdout.readline()
        assert line.endswith("\n")
        return line[:-1]


@contextmanager
def peer(limit: str | None = None) -> Iterator[Peer]:
    environment = {key: value for key, value in os.environ.items() if key != "FRAMESIZELIMIT"}
    if limit is not None:
        environment["FRAMESIZELIMIT"] = limit
    command = [sys.executable, str(HARNESS)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Peer(process)
        finally:
            process.kill()


def items(count: int, seed: int) -> list[str]:
    dice = random.Random(seed)
    return [f"item,{1000 + dice.randrange(500)},{dice.randbytes(32).hex()}" for _ in range(count)]


def run(one: Peer, two: Peer) -> list[str]:
    """What the first learns of the second, line by line."""
    learned: list[str] = []
    one.tell("initiate")
    while True:
        line = one.hear()
        if line == "done":
            return learned
        if line.startswith("msg,"):
            two.tell(line)
            one.tell(two.hear())
        else:
            learned.append(line)


@pytest.mark.parametrize("limits", [(None, None), ("0", "0"), ("4096", "6000")])
def test_two_of_them_learn_the_difference_each_id_told_once(
    limits: tuple[str | None, str | None],
) -> None:
    both, left, right = items(900, 1), items(90, 2), items(80, 3)
    with peer(limits[0]) as one, peer(limits[1]) as two:
        one.tell(*both, *left, "seal")
        two.tell(*both, *right, "seal")
        learned = run(one, two)
    wanted = [f"have,{item[-64:]}" for item in left] + [f"need,{item[-64:]}" for item in right]
    assert sorted(learned) == sorted(wanted)


def test_a_newer_version_is_answered_with_ours() -> None:
    with peer() as one:
        one.tell(f"item,12345,{'ee' * 32}", "seal", "msg,62aabbccddeeff")
        assert one.hear() == "msg,61"
        one.tell("msg,6100000200")
        assert one.hear() == f"msg,6100000201{'ee' * 32}"


def ended(*lines: str, limit: str | None = None) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a harness told these lines and no more."""
    environment = {**os.environ, "FRAMESIZELIMIT": limit or ""}
    done = subprocess.run(
        [sys.executable, str(HARNESS)],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("limit", ["1", "4095", "-1", "many"])
def test_a_frame_limit_that_is_none_is_an_error(limit: str) -> None:
    status, stdout, stderr = ended("seal", limit=limit)
    assert (status, stdout) == (1, "")
    assert stderr.startswith("harness: ")
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "lines",
    [
        ["hello"],
        ["item,1"],
        ["item,1,abcd"],
        ["item,x," + "ee" * 32],
        ["initiate"],
        ["msg,6100000200"],
        ["seal", "seal"],
        ["seal", "initiate", "initiate"],
        ["seal", "msg,7000000200"],
        ["seal", "msg,61ff"],
        ["seal", "msg,6"],
    ],
)
def test_anything_wrong_is_one_line_on_stderr(lines: list[str]) -> None:
    status, _, stderr = ended(*lines)
    assert status == 1
    assert stderr.startswith("harness: ")
    assert len(stderr.splitlines()) == 1


def test_it_ends_well_when_nothing_more_is_said() -> None:
    assert ended("", "seal", "") == (0, "", "")
