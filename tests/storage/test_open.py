"""Store strings, and storages that other packages bring."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from negd.errors import ConfigError
from negd.storage import open_store, store_summaries
from negd.storage.factory import check_store
from negd.testing.threads import ThreadedClock

ROOT = Path(__file__).parents[2]


def test_memory_store_opens() -> None:
    clock = ThreadedClock()
    storage = clock.wait(open_store("memory:", clock))
    clock.wait(storage.close())


def test_lmdb_store_opens_in_a_folder_with_colons(tmp_path: Path) -> None:
    clock = ThreadedClock()
    storage = clock.wait(open_store(f"lmdb:{tmp_path}/a:b", clock))
    clock.wait(storage.close())
    assert (tmp_path / "a:b" / "data.mdb").exists()


@pytest.mark.parametrize("store", ["", "lmdb", "sqlite:x", "/var/lib/negd"])
def test_unknown_kind_is_named_and_the_known_ones_are_listed(store: str) -> None:
    with pytest.raises(ConfigError) as raised:
        ThreadedClock().wait(open_store(store, ThreadedClock()))
    assert repr(store) in raised.value.text
    assert "lmdb:, memory:" in raised.value.text


def test_memory_takes_no_argument() -> None:
    with pytest.raises(ConfigError, match="'memory:x' takes nothing after the colon"):
        ThreadedClock().wait(open_store("memory:x", ThreadedClock()))


STORES = ("memory:", "memory:x", "lmdb:", "lmdb:a", "sqlite:x", "redis:x", "orlydb:x", "orlydb:x:0")


@pytest.mark.parametrize("store", STORES)
def test_a_check_says_what_opening_would(store: str) -> None:
    clock = ThreadedClock()
    try:
        check_store(store)
    except ConfigError as error:
        with pytest.raises(ConfigError) as raised:
            clock.wait(open_store(store, clock))
        assert raised.value.text == error.text
    else:
        assert store in ("memory:", "lmdb:a")


def test_a_check_imports_no_driver() -> None:
    code = """
import sys
from negd.storage.factory import check_store
for store in ("memory:", "lmdb:a", "redis:a:1:tls=yes", "orlydb:a:1"):
    check_store(store)
print([name for name in ("lmdb", "txredisapi", "grpc", "twisted.internet.reactor")
       if name in sys.modules])
"""
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


def test_summaries_are_one_line_each() -> None:
    summaries = store_summaries()
    assert {"lmdb", "memory"} <= {summary.split(":")[0] for summary in summaries}
    assert not any("\n" in summary for summary in summaries)


_THEIR_PLUGIN = """
from twisted.plugin import IPlugin
from zope.interface import implementer
from negd.interfaces import IStoreFactory
from negd.storage.memory import MemoryStorage

@implementer(IPlugin, IStoreFactory)
class Theirs:
    scheme = "theirs"
    summary = "theirs:NAME   from another package"

    def check(self, argument):
        print("checked", argument)

    async def open(self, argument, reactor, read_only=False, settings=None):
        print("opened", argument, read_only, settings.durability)
        return MemoryStorage(reactor)

theirs = Theirs()
"""

_THEIR_USE = """
import sys
from negd.settings import StoreSettings
from negd.storage import open_store, store_summaries
print([name for name in ("lmdb", "negd.storage.memory") if name in sys.modules])
print(*store_summaries(), sep="\\n")
print("lmdb" in sys.modules)
from negd.storage.factory import check_store
from negd.testing.threads import ThreadedClock
check_store("theirs:some:thing")
settings = StoreSettings(durability="batched")
ThreadedClock().wait(open_store("theirs:some:thing", None, True, settings))
"""


def test_another_package_can_bring_a_storage(tmp_path: Path) -> None:
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "their_stores.py").write_text(_THEIR_PLUGIN)
    found = subprocess.run(
        [sys.executable, "-c", _THEIR_USE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = found.stdout.splitlines()
    assert lines[0] == "[]", "drivers are imported when they are used"
    assert lines[-4:-2] == ["theirs:NAME   from another package", "False"]
    assert lines[-2:] == ["checked some:thing", "opened some:thing True batched"]
