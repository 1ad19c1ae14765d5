"""LMDB's file read without LMDB: pages and what lies on them, none of it trusted.

LMDB believes what a page says and ends the process where that is wrong; this believes nothing.
Every number is held against the page and the file before it is used.  The layout is that of
version 1 of the format (LMDB 0.9), as 64-bit systems write it in their own byte order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

_HEADER = Struct("=QHHHH")  # number, width of fixed values, flags, end of pointers, begin of nodes
_SPAN = Struct("=12xI")  # of an overflow page: how many pages belong to it
_NODE = Struct("=HHHH")  # low and high half of the value's size, flags, size of the key
_META = Struct("=QHHHHII8xQ")  # a header, magic, version, size of the map
_TREE = Struct("=IHHQQQQQ")  # width, flags, depth, three counts of pages, entries, root
_TREES = (_META.size, _META.size + _TREE.size)  # of free pages, and of databases by name
_TAIL = Struct("=QQ")  # last page, number of the transaction
_NUMBER = Struct("=Q")

_MAGIC = Struct("=I")

_IS_LMDB = 0xBEEFC0DE
_VERSION = 1
_SIZES = (4096, 8192, 16384, 32768, 512, 1024, 2048)
METAS = 2
"""Pages at the beginning that say where the trees are."""


_BRANCH, _LEAF, _OVERFLOW, _IS_META, _DIRTY, _FIXED, _WITHIN = 1, 2, 4, 8, 16, 32, 64
BIG, TREE, MANY = 1, 2, 4
"""Flags of a node: its value is on overflow pages, a tree, several values of the one key."""

_ROOTLESS = 2**64 - 1
_DEEPEST = 32


class DamagedPage(Exception):
    """A page is not what it should be; the text says how."""


class Tree(NamedTuple):
    """Where a tree begins.

    :ivar width: of its values where all have the same.
    :ivar depth: pages on the way to a leaf, both ends counted; 0 where it is empty.
    """

    width: int
    flags: int
    depth: int
    entries: int
    root: int

    @classmethod
    def at(cls, data: bytes, offset: int = 0) -> Tree:
        """:raises DamagedPage: no tree is like that."""
        width, flags, depth, _, _, _, entries, root = _TREE.unpack_from(data, offset)
        if depth > _DEEPEST or (root == _ROOTLESS) != (depth == 0):
            raise DamagedPage("names a tree that cannot be")
        return cls(width, flags, depth, entries, root)

    @classmethod
    def of(cls, page: bytes, node: Node) -> Tree:
        """That which a node names.

        :raises DamagedPage: it names none.
        """
        if node.size != _TREE.size:
            raise DamagedPage("names something else than a tree")
        return cls.at(page, node.begin)


class Meta(NamedTuple):
    """A committed state of the file.

    :ivar last: the last page that belongs to it.
    """

    transaction: int
    last: int
    free: Tree
    main: Tree


class Node(NamedTuple):
    """An entry on a leaf page.

    :ivar begin: where on the page the value begins, or the number of the page that has it.
    :ivar size: of the value, wherever it is.
    """

    flags: int
    key: bytes
    begin: int
    size: int


class PageFile:
    """A data file, by its path or by a descriptor of it. Close it after use.

    :ivar size: bytes of a page.
    :ivar count: whole pages in the file.
    :raises OSError: it cannot be opened.
    """

    def __init__(self, file: str | int) -> None:
        self._file = os.dup(file) if isinstance(file, int) else os.open(file, os.O_RDONLY)
        self._bytes = os.fstat(self._file).st_size
        self.size = self._page_size()
        self.count = self._bytes // self.size

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> PageFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _page_size(self) -> int:
        """That at which most of the first pages have their own numbers on them."""

        def fitting(size: int) -> int:
            pages = range(METAS, min(self._bytes // size, 300))
            heads = (os.pread(self._file, 8, number * size) for number in pages)
            return sum(head == _NUMBER.pack(page) for page, head in zip(pages, heads, strict=True))

        return max(_SIZES, key=fitting)

    @property
    def is_of_another_version(self) -> bool:
        """Whether LMDB 1.0 has written it, the heads of whose pages are longer."""
        return os.pread(self._file, _MAGIC.size, 24) == _MAGIC.pack(_IS_LMDB)

    def metas(self) -> list[Meta]:
        """Those of the two that can be read, the latest first."""
        found = []
        for number in range(METAS):
            with suppress(DamagedPage):
                found.append(self._meta(number))
        return sorted(found, reverse=True)

    def _meta(self, number: int) -> Meta:
        page = self.read(number)
        own, _, flags, _, _, magic, version, _ = _META.unpack_from(page)
        if (own, flags & _IS_META, magic, version) != (number, _IS_META, _IS_LMDB, _VERSION):
            raise DamagedPage("is no meta page")
        free, main = (Tree.at(page, offset) for offset in _TREES)
        last, transaction = _TAIL.unpack_from(page, _TREES[1] + _TREE.size)
        return Meta(transaction, last, free, main)

    def read(self, number: int, count: int = 1) -> bytes:
        """Pages in a row as they are.

        :raises DamagedPage: the file ends before them.
        """
        if not 0 <= number <= self.count - count:
            raise DamagedPage("is not in the file")
        try:
            data = os.pread(self._file, count * self.size, number * self.size)
        except OSError as error:
            raise DamagedPage(f"cannot be read: {error.strerror}") from None
        if len(data) < count * self.size:
            raise DamagedPage("is not in the file")
        return data

    def branch(self, number: int) -> list[int]:
        """The pages that a branch page leads to, in the order of keys.

        :raises DamagedPage: it is none.
        """
        page = self.read(number)
        _demand(page, number, _BRANCH)
        children = []
        for begin in _pointers(page):
            low, high, top, size = _unpack(_NODE, page, begin)
            if begin + _NODE.size + size > len(page):
                raise DamagedPage("has a key that does not end")
            children.append(low | high << 16 | top << 32)
        return children

    def leaf(self, number: int) -> bytes:
        """A page with nodes.

        :raises DamagedPage: it is none.
        """
        page = self.read(number)
        _demand(page, number, _LEAF)
        return page

    def fixed(self, number: int, width: int) -> None:
        """See that this is a page with nothing but values of one width.

        :raises DamagedPage: it is none.
        """
        page = self.read(number)
        _demand(page, number, _LEAF | _FIXED)
        if fixed_width(page) != width:
            raise DamagedPage("has values of a wrong width")

    def span(self, number: int) -> int:
        """How many pages belong to an overflow page.

        :raises DamagedPage: it is none.
        """
        page = self.read(number)
        _demand(page, number, _OVERFLOW)
        pages: int = _SPAN.unpack_from(page)[0]
        if not 0 < pages <= self.count - number:
            raise DamagedPage("leads out of the file")
        return pages

    def overflow(self, number: int, most: int) -> bytes:
        """What lies on an overflow page and those that belong to it, up to ``most`` bytes.

        :raises DamagedPage: it is none.
        """
        pages = min(self.span(number), self.pages_for(most))
        return self.read(number, pages)[_HEADER.size : _HEADER.size + most]

    def pages_for(self, size: int) -> int:
        """How many overflow pages a value takes."""
        return -(-(_HEADER.size + size) // self.size)

    def value(self, page: bytes, node: Node) -> bytes:
        """The value of a node, wherever it lies.

        :raises DamagedPage: it lies on no overflow pages as it should.
        """
        if not node.flags & BIG:
            return page[node.begin : node.begin + node.size]
        if self.span(node.begin) < self.pages_for(node.size):
            raise DamagedPage("names too few overflow pages")
        return self.overflow(node.begin, node.size)

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """All pages that can be read, many in a row at a time: the number of the first and what
        is on them."""
        step = (1 << 20) // self.size
        for begin in range(METAS, self.count, step):
            count = min(step, self.count - begin)
            try:
                yield begin, self.read(begin, count)
            except DamagedPage:
                for number in range(begin, begin + count):
                    with suppress(DamagedPage):
                        yield number, self.read(number)

    def own_pages(self, begin: int, data: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Those pages of a block that bear their own number, in use or not.

        :returns: numbers; with leaf pages what is on them, with overflow pages None.
        """
        for offset in range(0, len(data), self.size):
            number = begin + offset // self.size
            own, _, flags, _, _ = _HEADER.unpack_from(data, offset)
            if own == number and flags & ~_DIRTY == _LEAF:
                yield number, data[offset : offset + self.size]
            elif own == number and flags & ~_DIRTY == _OVERFLOW:
                yield number, None


def _demand(page: bytes, number: int, kind: int) -> None:
    own, _, flags, _, _ = _HEADER.unpack_from(page)
    if own != number:
        raise DamagedPage("does not bear its number")
    if flags & ~_DIRTY != kind:
        raise DamagedPage("is of a wrong kind")


def _unpack(struct: Struct, page: bytes, begin: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(page, begin)
    except StructError:
        raise DamagedPage("has a node that does not end") from None


def _pointers(page: bytes) -> tuple[int, ...]:
    """Where the nodes begin. Every page has some."""
    _, _, _, lower, upper = _unpack(_HEADER, page, 0)
    count = (lower - _HEADER.size) // 2
    if count < 1 or not lower <= upper < len(page):
        raise DamagedPage("has no right bounds")
    return Struct(f"={count}H").unpack_from(page, _HEADER.size)


def nodes(page: bytes) -> Iterator[Node]:
    """The nodes of a leaf page.

    :raises DamagedPage: one of them is none.
    """
    for begin in _pointers(page):
        yield _node(page, begin)


def _node(page: bytes, begin: int) -> Node:
    low, high, flags, length = _unpack(_NODE, page, begin)
    begin += _NODE.size
    value, size = begin + length, low | high << 16
    if flags & BIG:
        (pointer,) = _unpack(_NUMBER, page, value)
        return Node(flags, page[begin:value], pointer, size)
    if value + size > len(page):
        raise DamagedPage("has a node that does not end")
    return Node(flags, page[begin:value], value, size)


def fixed_width(page: bytes) -> int:
    """The width of the values that a page, or a part of one, is filled with.

    :raises DamagedPage: they do not fit.
    """
    _, width, _, lower, _ = _unpack(_HEADER, page, 0)
    count = (lower - _HEADER.size) // 2
    if count < 1 or not width or _HEADER.size + count * width > len(page):
        raise DamagedPage("has no right bounds")
    return width


def within(page: bytes, node: Node) -> bytes:
    """The part of a page that has the several values of a key, as a page of its own.

    :raises DamagedPage: there is none.
    """
    part = page[node.begin : node.begin + node.size]
    _, _, flags, _, _ = _unpack(_HEADER, part, 0)
    if flags & ~_DIRTY != _LEAF | _WITHIN | _FIXED:
        raise DamagedPage("has values of a wrong kind")
    return part
