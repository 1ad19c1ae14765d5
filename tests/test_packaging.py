"""``pip install .`` into an empty environment is enough, and takes nothing away from Twisted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from negd import __version__

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run as if from a shell that knows nothing of this checkout."""
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=known,
        capture_output=True,
        text=True,
        check=False,
    )


def pip(bin_folder: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run our own pip on an environment; to put one into it would take longer than all else."""
    return run(sys.executable, "-m", "pip", "--python", bin_folder / "python", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bin folder of a fresh virtual environment with negd installed from a copy of the tree.

    From a copy, as building leaves a folder behind whose old contents would be installed again.
    """
    folder = tmp_path_factory.mktemp("install")
    sources = folder / "sources"
    sources.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    ignored = shutil.ignore_patterns("__pycache__", "dropin.cache")
    for name in ("negd", "twisted"):
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    venv.create(folder / "venv")
    bin_folder = folder / "venv" / "bin"
    done = pip(bin_folder, "install", "--quiet", "--no-compile", ".", cwd=sources)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(sources)
    yield bin_folder


def test_twistd_lists_negd_from_any_directory(environment: Path, tmp_path: Path) -> None:
    done = run(environment / "twistd", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "    negd   " in done.stdout
    assert done.stderr == ""


def test_the_daemon_starts_far_enough_to_list_its_stores(environment: Path, tmp_path: Path) -> None:
    done = run(environment / "twistd", "-n", "negd", "--help-stores", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "lmdb:" in done.stdout


def test_negctl_is_there(environment: Path, tmp_path: Path) -> None:
    done = run(environment / "negctl", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_every_module_is_there_and_its_imports_are_declared(
    environment: Path, tmp_path: Path
) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "negd").rglob("*.py"))
        if "testing" not in path.parts and path.name != "__init__.py"
    ]
    listed = "; ".join(f"import {name}" for name in modules)
    done = run(environment / "python", "-W", "error", "-c", listed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_autobahn_runs_with_its_native_helpers(environment: Path, tmp_path: Path) -> None:
    code = "from autobahn.websocket import HAS_NVX, USES_NVX; print(HAS_NVX, USES_NVX)"
    assert run(environment / "python", "-c", code, cwd=tmp_path).stdout == "True True\n"


def test_what_is_installed_says_its_version_and_that_it_is_typed(
    environment: Path, tmp_path: Path
) -> None:
    done = run(environment / "twistd", "-n", "negd", "--version", cwd=tmp_path)
    assert done.stdout == f"negd {__version__}\n"
    shown = pip(environment, "show", "--files", "negd", cwd=tmp_path).stdout
    assert f"Version: {__version__}\n" in shown
    assert "negd/py.typed" in shown
    files = {line.strip() for line in shown.partition("Files:\n")[2].splitlines()}
    assert {
        file for file in files if file.startswith("twisted/") and "__pycache__" not in file
    } == {
        "twisted/plugins/negd_plugin.py",
        "twisted/plugins/negd_stores.py",
    }


def test_uninstalling_leaves_twisted_whole(environment: Path, tmp_path: Path) -> None:
    done = pip(environment, "uninstall", "--quiet", "--yes", "negd", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(environment / "twistd", "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert "negd" not in done.stdout
    assert "A general-purpose web server" in done.stdout
    done = pip(environment, "check", cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def test_no_dependency_has_an_upper_bound() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = setup["options"]["install_requires"].split()
    assert wanted
    assert all(">=" in one and not set("<=!~,") & set(one.replace(">=", "")) for one in wanted)
