"""Imports point down only: the house's floors, read from the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "negd").rglob("*.py"))

LEAVES: dict[str, set[str]] = {
    room: set() for room in ("addresses", "errors", "settings", "__init__")
}
VALUES: dict[str, set[str]] = {"nostr": {"errors"}, "reconcile": {"errors"}}
MEETING = {"interfaces": {"errors", "settings", "nostr", "reconcile"}}
BELOW_SYNC = {"addresses", "errors", "settings", "nostr", "reconcile", "interfaces"}
LEVEL_1 = {"sync": BELOW_SYNC}
LEVEL_2 = {
    room: BELOW_SYNC | {"sync"} for room in ("storage", "websocket", "peers", "control", "web")
}
PUBLIC = BELOW_SYNC | {"sync"} | set(LEVEL_2)
TOP = {
    "config": BELOW_SYNC | {"peers", "control", "websocket"},
    "keys": BELOW_SYNC,
    "service": BELOW_SYNC | {"sync"},
    "testing": PUBLIC,
    "demo": BELOW_SYNC | {"testing"},
    # The two roots, where the rooms are put together: the daemon's and negctl's.
    "tap": PUBLIC | {"config", "keys", "service"},
    "cli": BELOW_SYNC | {"sync", "control", "storage", "peers"},
}
MAY_IMPORT = LEAVES | VALUES | MEETING | LEVEL_1 | LEVEL_2 | TOP
"""Which rooms of negd each room may import from; its own it always may."""

ONLY_IN = {
    "autobahn": {"negd.websocket"},
    "txaio": {"negd.websocket"},
    "grpc": {"negd.control", "negd.storage.orlydb", "negd.testing.orlydb"},
    "google": {"negd.control", "negd.storage.orlydb", "negd.testing.orlydb"},
    "txredisapi": {"negd.storage.redis"},
    "lmdb": {"negd.storage.lmdb"},
    "tqdm": {"negd.cli"},
    "prometheus_client": {"negd.web"},
}
"""Which modules (and those below them) may import a library."""

WITHOUT_REACTOR = {"addresses", "errors", "settings", "nostr", "reconcile"}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Every module that the file imports, wherever in it the import stands."""
    module = module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
            origin = ".".join(filter(None, [base if node.level else "", node.module]))
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    """``storage`` for ``negd.storage.memory``; a name imported from ``negd`` itself is none."""
    return module.split(".")[1]


def is_under(module: str, places: set[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    room = room_of(module_of(path))
    assert room in MAY_IMPORT, f"{room} has no place in the house: give it one here"
    below = MAY_IMPORT[room] | {room, "__version__"}
    imported = {name for name in imports_of(path) if name.startswith("negd.")}
    if path == ROOT / "negd" / "__init__.py":
        assert not imported
        return
    upward = {name for name in imported if room_of(name) not in below}
    assert not upward


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_libraries_are_imported_where_they_belong(path: Path) -> None:
    module = module_of(path)
    for name in imports_of(path):
        library = name.split(".")[0]
        assert is_under(module, ONLY_IN.get(library, {module})), f"{module} imports {name}"
        if room_of(module) in WITHOUT_REACTOR:
            assert library not in ("twisted", "zope"), f"{module} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_nothing_installs_a_reactor_when_it_is_imported(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module == "twisted.internet":
            assert "reactor" not in {alias.name for alias in node.names}


def floors() -> dict[str, int]:
    """The floor of each room, as docs/architecture.md tells it."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"(?m)^\| ((?:`\w+`(?:, )?)+) \| (\d+) \|", text)
    return {room: int(floor) for rooms, floor in rows for room in re.findall(r"\w+", rooms)}


def test_the_floors_that_are_told_of_are_those_of_the_rule_book() -> None:
    floor = floors()
    assert set(floor) == set(MAY_IMPORT) - {"__init__"}
    for room, below in MAY_IMPORT.items():
        level = [name for name in below if floor[name] >= floor[room]]
        assert not level, f"docs/architecture.md has {room} no higher than {level}"


def test_the_rule_book_has_no_room_that_is_gone() -> None:
    rooms = {path.relative_to(ROOT / "negd").parts[0].removesuffix(".py") for path in SOURCES}
    assert set(MAY_IMPORT) - rooms == set()


def test_relative_imports_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    source = tmp_path / "negd" / "sync" / "run.py"
    source.parent.mkdir(parents=True)
    source.write_text("from . import fetch\nfrom ..storage import x\nfrom .a import b\n")
    assert list(imports_of(source)) == ["negd.sync.fetch", "negd.storage.x", "negd.sync.a.b"]
