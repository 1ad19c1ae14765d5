"""The LMDB environment of a store: its files, its databases, and a map that grows when it is full.

Every event has a number, its serial, given out in the order of coming and never twice.  Events lie
under their serials, so that new ones fill page after page.  Posting lists (``kinds``, ``authors``,
``tags``, ``expiry``) hold postings: ``created_at`` and serial, 14 bytes, which is the order of time
with ties in the order of coming.  There is no list of everything: the lists by kind hold each event
once.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, fields
from enum import Enum
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, mmap
from threading import Condition
from typing import TypeAlias

import lmdb
from twisted.logger import Logger

from negd.errors import DamagedStore, OlderStore, StorageError
from negd.storage.lmdb.ownership import give_away
from negd.storage.lmdb.pace import Pause, at_once
from negd.storage.lmdb.pages import PageFile
from negd.storage.lmdb.trees import EMPTY, NO_START, State, damaged_meta

Database: TypeAlias = lmdb._Database
Transaction: TypeAlias = "lmdb.Transaction[bytes]"
Cursor: TypeAlias = "lmdb.Cursor[bytes]"

log = Logger()

SCHEMA = 2
"""What this code reads and writes; the store has it under ``meta``."""

FIRST_MAP = 1 << 32
"""Bytes of address space to begin with; the file only grows with what is written."""

_UNWRITTEN = 64
"""Pages at the end of the file that may be missing."""

_DATA, _READERS, _LOCK = "data.mdb", "lock.mdb", "negd.lock"
_READERS_BYTES = 8192
"""What LMDB's table of readers takes, for 126 of them."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}

_KEPT = "damaged-{}.mdb"
"""The data file in whose place came what could be saved of it."""

_NEW = "new"
"""Folder within the store's where data are made that are to replace the store's; a crash may leave
it there until the store is opened for writing again."""


class Sync(Enum):
    """What a power cut can take of what was committed."""

    FULL = "full"
    """Nothing."""
    DATA = "data"
    """The last commit: that it took place is written, but not waited for."""
    NONE = "none"
    """Everything; for files that are not in use yet."""


@dataclass(frozen=True)
class Databases:
    """The named databases. Numbers in keys are big-endian, so that keys sort as numbers do.

    :ivar meta: ``schema`` -> decimal; ``serial`` -> the last one that was given out.
    :ivar events: serial (6) -> the event, see :mod:`negd.nostr.packed`.
    :ivar ids: one key -> id (32) and serial of every event.
    :ivar kinds: kind (2) -> postings.
    :ivar authors: public key (32) -> postings.
    :ivar tags: letter (1), head of the value's SHA-256 (16) -> postings.
    :ivar expiry: second (8) -> postings of the events that expire then.
    :ivar addresses: address key -> serial of the event that holds it.
    :ivar deleted_ids: id (32), author (32) -> nothing.
    :ivar deleted_addresses: address key -> last deleted second (8).
    :ivar peers: URL key -> URL and state.
    :ivar residues: URL key -> how many ledger entries there are of each residue.
    :ivar ledger: URL key, id -> entry.
    :ivar ledger_due: URL key, second (8-byte float), id -> nothing.
    """

    meta: Database
    events: Database
    ids: Database
    kinds: Database
    authors: Database
    tags: Database
    expiry: Database
    addresses: Database
    deleted_ids: Database
    deleted_addresses: Database
    peers: Database
    residues: Database
    ledger: Database
    ledger_due: Database


_NAMES = tuple(field.name for field in fields(Databases))
_LISTS = {"ids", "kinds", "authors", "tags", "expiry"}

_READ_AT_ONCE = ("meta", "ids", "kinds", "expiry")
"""Databases that are read as a store is opened."""

_ATTEMPTS = 100
"""Looks at a file that is being written to, before it is taken for damaged."""


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Say in words, as StorageError, what LMDB or the system complains of."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise StorageError(f"{what}: {error}") from error


class _GiveWay(Exception):
    """Somebody waits for the read transactions to end."""


class Environment:
    """An open environment.

    A transaction belongs to the thread that began it.  What is done in one raises what LMDB
    raises; wrap it in :func:`storage_errors`.

    :ivar databases: of the files that are open now; see :meth:`replace`.
    :ivar schema: of the store as it was found, which may be an older one.
    :ivar was_left: whether a process that wrote ended without closing the store, and no other has
        looked through it since; set it to False once that is done.
    :param first_map: bytes; the map doubles whenever it is full.
    :param sync: how far a commit goes before it returns.
    :raises StorageError: the folder is not there, not ours, in use, of a newer schema; or of an
        older schema and to be read only.
    :raises DamagedStore: LMDB cannot read what is read at once, or not even find the way to the
        rest.
    """

    def __init__(
        self,
        folder: str,
        read_only: bool,
        first_map: int = FIRST_MAP,
        sync: Sync = Sync.FULL,
    ) -> None:
        self.folder = folder
        self._read_only = read_only
        self._first_map = first_map
        self._sync = sync
        self._turn = Condition()
        self._readers = 0
        self._closed_for_readers = False
        self._made_at: int | None = None
        self._told_of_damage = False
        self.was_left = False
        self._lock: int | None = None
        if not read_only:
            self._lock, self.was_left = _lock(folder)
        try:
            if not read_only:
                shutil.rmtree(os.path.join(folder, _NEW), ignore_errors=True)
            self._open()
        except BaseException:
            self._unlock()
            raise

    def _open(self) -> None:
        with storage_errors(f"store {self.folder} cannot be opened"), _entrance(self.folder):
            self._env = self._open_files()
            self._env.reader_check()  # others may have it open, and have been open beside the dead
            # another process may put another file in the place of this one
            self._file = open(self.data, "rb", buffering=0)  # noqa: SIM115
            try:
                self._assure_length()
                self._assure_trees()
                self.schema, self.databases = self._open_databases()
            except BaseException:
                self._close_files()
                raise

    def _close_files(self) -> None:
        self._env.close()
        self._file.close()

    def _open_files(self) -> lmdb.Environment:
        if os.path.exists(self.data) and not os.path.isfile(self.data):
            raise StorageError(f"{self.data} is no regular file")  # a pipe would be waited for
        if not (self._read_only or os.path.exists(self.data)):
            _begin(self.folder, self._first_map)
        if os.path.exists(self.data) and self.bytes == 0:
            raise self._damaged(EMPTY)
        try:
            opened = _open(self.folder, self._read_only, self._first_map, self._sync)
        except lmdb.Error:
            fault = damaged_meta(self.data)
            if fault is None:
                raise
            raise self._damaged(fault) from None
        for name in (_DATA, _READERS):
            give_away(os.path.join(self.folder, name))
        return opened

    def _damaged(self, fault: str) -> DamagedStore:
        return DamagedStore(
            f"store {self.folder} is damaged: {fault}; "
            f"'negctl verify --repair --store lmdb:{self.folder}' saves what is left"
        )

    def tell_of_damage(self, serial: bytes, fault: str) -> None:
        """Log that an event is damaged; only the first, since whatever reads it would say so again.

        Pages have no checksums: those that hold it may be as whole as ever.
        """
        if not self._told_of_damage:
            self._told_of_damage = True
            log.error(
                "store {folder} is damaged: event number {number} is {fault}; "
                "'negctl verify --repair --store lmdb:{folder}' finds and removes all such events",
                folder=self.folder,
                number=int.from_bytes(serial, "big"),
                fault=fault,
            )

    @property
    def data(self) -> str:
        """The data file."""
        return data_file(self.folder)

    def look(self, leaves: Collection[str] | None = None, pause: Pause = at_once) -> State:
        """Look, without LMDB, at the pages as they are now; what has no faults LMDB may read.

        Where the map has to grow or the files are exchanged meanwhile, it begins anew.

        :param leaves: databases whose leaf pages are looked at too; None for all of them.
        :param pause: called between pages.
        :raises DamagedStore: what LMDB takes for the latest state cannot be read.
        """

        def give_way() -> None:
            if self._closed_for_readers:
                raise _GiveWay
            pause()

        while True:
            with suppress(_GiveWay):
                return self._look(self.read, leaves, give_way)

    def _look(
        self,
        begin: Callable[[], AbstractContextManager[Transaction]],
        leaves: Collection[str] | None,
        pause: Pause = at_once,
    ) -> State:
        for _ in range(_ATTEMPTS):
            with begin() as txn, PageFile(self._file.fileno()) as file:
                if file.is_of_another_version:
                    raise StorageError(f"store {self.folder} is of another version of LMDB")
                state = State.of(file, txn.id(), pause)
                if state is not None:
                    state.look(_NAMES, leaves)
                    return state
        raise self._damaged(NO_START)

    def assure_whole(self, leaves: Collection[str] | None = None, pause: Pause = at_once) -> None:
        """See that LMDB may read everything.

        :param leaves: databases that are to be read, where that is not all of them.
        :param pause: called between pages.
        :raises DamagedStore: it would end the process, or not find all.
        """
        faults = self.look(leaves, pause).faults
        if faults:
            raise self._damaged(faults[0])

    def _assure_trees(self) -> None:
        """See that LMDB finds its way: it ends the process where it does not."""
        state = self._look(self._env.begin, _READ_AT_ONCE)
        if state.faults:
            raise self._damaged(state.faults[0])

    def _assure_length(self) -> None:
        """See that every page is there: reading beyond the end of the file kills the process.

        A few pages at the end may rightly be missing, given back before they were written.
        """
        page = self._env.stat()["psize"]
        expected = (self._env.info()["last_pgno"] + 1) * page
        if self.bytes < expected - _UNWRITTEN * page:
            raise self._damaged(f"{_DATA} is cut short: {self.bytes} of {expected} bytes are left")
        if self.bytes < expected:
            descriptor = os.open(self.data, os.O_RDWR)
            try:
                os.posix_fallocate(descriptor, expected - 1, 1)
            finally:
                os.close(descriptor)

    def _open_databases(self) -> tuple[int, Databases]:
        if not self._read_only and self._env.stat()["entries"] == 0:
            return SCHEMA, self._create()
        try:
            meta = self._env.open_db(b"meta", create=False)
        except lmdb.NotFoundError:
            raise StorageError(f"{self.folder} holds an LMDB database that is not negd's") from None
        with self._env.begin() as txn:
            schema = _known_schema(self.folder, txn.get(b"schema", b"", db=meta))
        if schema < SCHEMA and self._read_only:
            raise OlderStore(
                f"store {self.folder} is of schema {schema}, which an older negd wrote: "
                f"'negctl compact --store lmdb:{self.folder}' upgrades it, and so does negd itself"
            )
        try:
            return schema, Databases(
                **{name: self._env.open_db(name.encode(), create=False) for name in _NAMES}
            )
        except lmdb.NotFoundError as error:
            raise self._damaged(str(error)) from None

    def _create(self) -> Databases:
        """All databases in one transaction: a store is there or it is not."""
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    opened = {
                        name: self._env.open_db(
                            name.encode(), txn, dupsort=name in _LISTS, dupfixed=name in _LISTS
                        )
                        for name in _NAMES
                    }
                    txn.put(b"schema", str(SCHEMA).encode(), db=opened["meta"])
                return Databases(**opened)
            except lmdb.MapFullError:
                self.grow()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read transaction. Keep it short: the map cannot grow meanwhile."""
        with self._reading():
            try:
                txn = self._env.begin()
            except lmdb.MapResizedError:
                txn = None
            if txn is not None:
                with txn:
                    yield txn
                return
        self._resize(0)  # another process has grown the map: take over its size
        with self.read() as later:
            yield later

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._turn:
            while self._closed_for_readers:
                self._turn.wait()
            self._readers += 1
        try:
            yield
        finally:
            with self._turn:
                self._readers -= 1
                self._turn.notify_all()

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A write transaction, committed at the end or, on an error, aborted."""
        with self._env.begin(write=True) as txn:
            yield txn

    def sync(self) -> None:
        """Have everything that is committed on the disk."""
        with self._reading(), storage_errors(f"store {self.folder}"):
            self._env.sync(True)

    def forget_dead_readers(self) -> int:
        """Take the places of readers from processes that ended without leaving them.

        What such a reader saw would be kept for ever, and the file grow with every write.

        :returns: how many there were.
        """
        with self._reading():
            dead: int = self._env.reader_check()
        return dead

    def grow(self) -> None:
        """Make room: what dead readers kept, or else a map of twice the size.

        The map grows once all read transactions have ended; new ones wait.

        :raises lmdb.Error: the process may not have so much address space; all is as it was.
        """
        if self.forget_dead_readers():
            return
        size = 2 * self._env.info()["map_size"]
        try:
            # LMDB gives the map up before it asks for a larger one, and is lost without.
            mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS, PROT_READ).close()
        except OSError as error:
            raise lmdb.Error(f"the map is full and cannot grow: {error.strerror}") from None
        self._resize(size)

    def _resize(self, size: int) -> None:
        with self._alone():
            self._env.set_mapsize(size)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No read transaction of this process is open meanwhile."""
        with self._turn:
            while self._closed_for_readers:
                self._turn.wait()
            self._closed_for_readers = True
            while self._readers:
                self._turn.wait()
        try:
            yield
        finally:
            with self._turn:
                self._closed_for_readers = False
                self._turn.notify_all()

    def replace(self, make: Callable[[str], bool], keep: bool = False) -> str | None:
        """Put other data in the place of these, wholly or not at all, and open those.

        To be called by the thread that writes. Other processes go on reading the old data until
        they close them.

        :param make: called with a new folder, in which it leaves a closed environment; false has
            the old data stay.
        :param keep: keep the old data file under another name.
        :returns: the old file's new name.
        :raises StorageError: it failed, or there is no room. The store is as it was, and open.
        """
        kept = None
        with _new_folder(self.folder) as new:
            if make(new):
                with self._alone():
                    self._close_files()
                    try:
                        kept = _swap(new, self.folder, keep)
                    finally:
                        self._open()
                    self._made_at = self.last_transaction
        return kept

    @property
    def is_untouched(self) -> bool:
        """Whether the data were made anew, and nothing was written since."""
        return self._made_at == self.last_transaction

    @property
    def last_transaction(self) -> int:
        """Number of the last committed transaction, of any process."""
        return self._env.info()["last_txnid"]

    @property
    def bytes(self) -> int:
        """Size of the data file."""
        return os.stat(self.data).st_size

    def close(self) -> None:
        """Let go of the files; no transaction may be open."""
        self._close_files()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            _unlock(self._lock, self.was_left)
            self._lock = None


def _lock(folder: str) -> tuple[int, bool]:
    """Make the folder where it is missing and become its only writer.

    :returns: what to unlock, and whether the writer before ended without doing so.
    """
    with storage_errors(f"store {folder} cannot be opened"):
        _make_folder(folder)
        path = os.path.join(folder, _LOCK)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            give_away(path)
            return descriptor, _own(folder, descriptor)
        except BaseException:
            os.close(descriptor)
            raise


def _make_folder(folder: str) -> None:
    missing, path = [], os.path.abspath(folder)
    while not os.path.exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError as error:
        raise StorageError(
            f"store {folder} cannot be opened: {error.filename} is a file, not a folder"
        ) from None
    for made in reversed(missing):
        give_away(made)


def _own(folder: str, descriptor: int) -> bool:
    """Become the owner of a lock file; whether its last owner ended without letting go."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 20).decode(errors="replace").strip()
        raise StorageError(f"store {folder} is in use by process {owner or 'unknown'}") from None
    was_left = bool(os.pread(descriptor, 20, 0).strip())
    number = f"{os.getpid()}\n".encode()
    os.pwrite(descriptor, number, 0)  # before the rest is cut off: it may fail on a full disk
    os.ftruncate(descriptor, len(number))
    return was_left


def _unlock(descriptor: int, was_left: bool = False) -> None:
    """Let go of a lock file.

    It is blanked, not emptied: the next owner may have to write to it on a disk that is full.

    :param was_left: what the next owner is told.
    """
    if not was_left:
        os.pwrite(descriptor, b" " * os.fstat(descriptor).st_size, 0)
    os.close(descriptor)


@contextmanager
def _entrance(folder: str, operation: int = fcntl.LOCK_SH) -> Iterator[None]:
    """Held while files are opened; exclusively, while they are exchanged for others.

    LMDB takes the state of a file from whoever has it open (``lock.mdb``): one that belonged to
    the old data would lead a writer of the new ones astray.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        raise StorageError(f"there is no store in {folder}") from None
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _new_folder(folder: str) -> Iterator[str]:
    """A folder within a store's in which data are made that are to take the place of its own.

    :raises StorageError: there is no room, or the body raised what LMDB or the system raises.
    """
    new = os.path.join(folder, _NEW)
    with storage_errors(f"store {folder} cannot be made anew"):
        free, needed = shutil.disk_usage(folder).free, os.stat(data_file(folder)).st_size
        if free < needed:
            raise StorageError(
                f"store {folder} cannot be made anew: that may take {needed} bytes, and "
                f"{free} are free"
            )
        os.mkdir(new)
        try:
            yield new
        finally:
            shutil.rmtree(new, ignore_errors=True)


def data_file(folder: str) -> str:
    """The data file of a store."""
    return os.path.join(folder, _DATA)


def replace_unopened(folder: str, make: Callable[[str], bool]) -> str | None:
    """As :meth:`Environment.replace`, of a store that cannot be opened; the old file is kept.

    :raises StorageError: it failed, or there is no room. The store is as it was.
    """
    lock, _ = _lock(folder)
    try:
        shutil.rmtree(os.path.join(folder, _NEW), ignore_errors=True)
        with _new_folder(folder) as new:
            return _swap(new, folder, keep=True) if make(new) else None
    finally:
        _unlock(lock)


def _swap(new: str, folder: str, keep: bool) -> str | None:
    """Put the data of one folder in the place of another's; the name under which those are kept."""
    old, kept = data_file(folder), None
    with _entrance(folder, fcntl.LOCK_EX):
        _sync_path(data_file(new))
        if keep:
            kept = next(itertools.filterfalse(os.path.exists, _kept_names(folder)))
            os.link(old, kept)
        shutil.copymode(old, data_file(new))
        give_away(new)
        give_away(data_file(new))
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, _READERS))
        os.rename(data_file(new), old)
        _sync_path(folder)
    return kept


def _kept_names(folder: str) -> Iterator[str]:
    return (os.path.join(folder, _KEPT.format(number)) for number in itertools.count(1))


def _sync_path(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _known_schema(folder: str, value: bytes) -> int:
    """:raises StorageError: it is not."""
    text = value.decode(errors="replace")
    if not text.isdecimal() or not 1 <= int(text) <= SCHEMA:
        raise StorageError(
            f"store {folder} is of schema {text or 'unknown'}; this negd reads schema {SCHEMA}"
        )
    return int(text)


def _begin(folder: str, first_map: int) -> None:
    """Have LMDB write its first pages elsewhere: a crash before them would leave an empty file."""
    new = os.path.join(folder, _NEW)
    _open(new, False, first_map, Sync.FULL).close()
    _sync_path(data_file(new))
    os.rename(data_file(new), data_file(folder))
    _sync_path(folder)
    shutil.rmtree(new, ignore_errors=True)


def _allocate_readers(folder: str) -> None:
    """Have LMDB's table of readers on the disk before it is mapped.

    LMDB makes it with a hole, and to write into that where the disk is full kills the process.

    :raises OSError: there is no room for it, or it cannot be opened.
    """
    os.makedirs(folder, exist_ok=True)
    descriptor = os.open(os.path.join(folder, _READERS), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.fstat(descriptor).st_blocks * 512 < _READERS_BYTES:
            os.posix_fallocate(descriptor, 0, _READERS_BYTES)
    finally:
        os.close(descriptor)


def _open(folder: str, read_only: bool, first_map: int, sync: Sync) -> lmdb.Environment:
    if read_only and not os.path.exists(data_file(folder)):
        raise StorageError(f"there is no store in {folder}")
    try:
        _allocate_readers(folder)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        # LMDB says itself what it cannot open, or does without
    return lmdb.open(
        folder,
        map_size=first_map,
        max_dbs=len(_NAMES),
        readonly=read_only,
        create=not read_only,
        sync=sync is not Sync.NONE,
        metasync=sync is Sync.FULL,
    )
