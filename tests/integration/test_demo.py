"""``make demo`` does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_the_demo_makes_two_daemons_equal_and_cleans_up(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "negd.demo"],
        cwd=tmp_path,
        env={"TMPDIR": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    moved = re.search(r"fetched ([\d,]+) of [\d,]+, sent ([\d,]+) of", done.stdout)
    assert moved is not None, done.stdout
    assert all(int(count.replace(",", "")) > 1000 for count in moved.groups())
    assert "both hold the same" in done.stdout
    assert list(tmp_path.iterdir()) == []
