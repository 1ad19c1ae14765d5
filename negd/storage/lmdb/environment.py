"""The LMDB environment of a store: its files, its databases, and a map that grows when it is full.

Events lie in the order in which they came, so that new ones fill page after page; filed under their
ids they would be spread over all pages and take half as much room again.

Posting lists (``kinds``, ``authors``, ``tags``, ``expiry``) hold 40-byte records in protocol order
under each key.  There is no list of everything and none by author alone: the lists by kind hold
each record once, and the keys of one author lie side by side.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, mmap
from threading import Condition
from typing import TypeAlias

import lmdb

from negd.errors import StorageError

Database: TypeAlias = lmdb._Database
Transaction: TypeAlias = "lmdb.Transaction[bytes]"
Cursor: TypeAlias = "lmdb.Cursor[bytes]"

SCHEMA = 1
"""What this code reads and writes; the store has it under ``meta``."""

FIRST_MAP = 1 << 32
"""Bytes of address space to begin with; the file only grows with what is written."""

_UNWRITTEN = 64
"""Pages at the end of the file that may be missing."""

_DATA, _LOCK = "data.mdb", "negd.lock"


@dataclass(frozen=True)
class Databases:
    """The named databases. Numbers in keys are big-endian, so that keys sort as numbers do.

    :ivar meta: ``schema`` -> decimal.
    :ivar events: serial (8), in the order of coming -> the event's JSON, compact.
    :ivar ids: id -> serial.
    :ivar kinds: kind (2 bytes) -> records.
    :ivar authors: public key (32), kind (2) -> records.
    :ivar tags: letter (1), head of the value's SHA-256 (16) -> records.
    :ivar expiry: second (8) -> records of the events that expire then.
    :ivar addresses: address key -> id of the event that holds it.
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
_LISTS = {"kinds", "authors", "tags", "expiry"}


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Say in words, as StorageError, what LMDB or the system complains of."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise StorageError(f"{what}: {error}") from error


class Environment:
    """An open environment.

    A transaction belongs to the thread that began it.  What is done in one raises what LMDB
    raises; wrap it in :func:`storage_errors`.

    :param first_map: bytes; the map doubles whenever it is full.
    :raises StorageError: the folder is not there, not ours, in use, of a newer schema, damaged.
    """

    def __init__(self, folder: str, read_only: bool, first_map: int = FIRST_MAP) -> None:
        self.folder = folder
        self._turn = Condition()
        self._readers = 0
        self._growing = False
        self._lock = None if read_only else _lock(folder)
        try:
            self._env = _open(folder, read_only, first_map)
        except BaseException:
            self._unlock()
            raise
        try:
            with storage_errors(f"store {folder} cannot be opened"):
                self._assure_length()
                self.databases = self._open_databases(read_only)
        except BaseException:
            self.close()
            raise

    def _assure_length(self) -> None:
        """See that every page is there: reading beyond the end of the file kills the process.

        A few pages at the end may rightly be missing, given back before they were written.
        """
        page = self._env.stat()["psize"]
        expected = (self._env.info()["last_pgno"] + 1) * page
        if self.bytes < expected - _UNWRITTEN * page:
            raise StorageError(
                f"store {self.folder} cannot be opened: {_DATA} is cut short, "
                f"{self.bytes} of {expected} bytes are left"
            )
        if self.bytes < expected:
            descriptor = os.open(os.path.join(self.folder, _DATA), os.O_RDWR)
            try:
                os.posix_fallocate(descriptor, expected - 1, 1)
            finally:
                os.close(descriptor)

    def _open_databases(self, read_only: bool) -> Databases:
        if not read_only and self._env.stat()["entries"] == 0:
            return self._create()
        try:
            meta = self._env.open_db(b"meta", create=False)
        except lmdb.NotFoundError:
            raise StorageError(f"{self.folder} holds an LMDB database that is not negd's") from None
        with self._env.begin() as txn:
            schema = txn.get(b"schema", b"", db=meta).decode()
        if schema != str(SCHEMA):
            raise StorageError(
                f"store {self.folder} is of schema {schema or 'unknown'}; "
                f"this negd reads schema {SCHEMA}"
            )
        return Databases(
            **{name: self._env.open_db(name.encode(), create=False) for name in _NAMES}
        )

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
            while self._growing:
                self._turn.wait()
            self._readers += 1
        try:
            yield
        finally:
            with self._turn:
                self._readers -= 1
                self._turn.notify_all()

    def write(self) -> Transaction:
        """A write transaction, as a context manager that commits or, on an error, aborts."""
        return self._env.begin(write=True)

    def grow(self) -> None:
        """Double the map, once all read transactions have ended; new ones wait.

        :raises lmdb.Error: the process may not have so much address space; all is as it was.
        """
        size = 2 * self._env.info()["map_size"]
        try:
            # LMDB gives the map up before it asks for a larger one, and is lost without.
            mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS, PROT_READ).close()
        except OSError as error:
            raise lmdb.Error(f"the map is full and cannot grow: {error.strerror}") from None
        self._resize(size)

    def _resize(self, size: int) -> None:
        with self._turn:
            while self._growing:
                self._turn.wait()
            self._growing = True
            while self._readers:
                self._turn.wait()
        try:
            self._env.set_mapsize(size)
        finally:
            with self._turn:
                self._growing = False
                self._turn.notify_all()

    @property
    def last_transaction(self) -> int:
        """Number of the last committed transaction, of any process."""
        return self._env.info()["last_txnid"]

    @property
    def bytes(self) -> int:
        """Size of the data file."""
        return os.stat(os.path.join(self.folder, _DATA)).st_size

    def close(self) -> None:
        """Let go of the files; no transaction may be open."""
        self._env.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(folder: str) -> int:
    """Make the folder where it is missing and become its only writer."""
    with storage_errors(f"store {folder} cannot be opened"):
        os.makedirs(folder, exist_ok=True)
        descriptor = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise StorageError(f"store {folder} is in use by process {owner or 'unknown'}") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _open(folder: str, read_only: bool, first_map: int) -> lmdb.Environment:
    if read_only and not os.path.exists(os.path.join(folder, _DATA)):
        raise StorageError(f"there is no store in {folder}")
    with storage_errors(f"store {folder} cannot be opened"):
        return lmdb.open(
            folder,
            map_size=first_map,
            max_dbs=len(_NAMES),
            readonly=read_only,
            create=not read_only,
            meminit=False,
        )
