"""The data file taken into memory ahead of those who will ask for events.

An event that is not in memory costs a visit to the disk, and 500 of them a second's good part.  The
system's own reading ahead does not help there: those who ask, ask for events all over the file.
"""

from __future__ import annotations

import os

from negd.storage.lmdb.pace import Pause

_MEMORY = "/proc/meminfo"
_PIECE = 1 << 20
_SHARE = 2
"""The file may take one in so many bytes of the memory that is free or can be freed."""


def available_memory() -> int:
    """Bytes that the system could give out, which those of files no longer in use are among.

    0 where it does not tell; a bound of a control group is not looked at.
    """
    try:
        with open(_MEMORY, encoding="ascii", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return 0
    told = [line[1] for line in lines if len(line) > 1 and line[0] == "MemAvailable:"]
    return int(told[0]) * 1024 if told and told[0].isdecimal() else 0


def read_ahead(path: str, available: int, pause: Pause) -> int:
    """Have the system hold a file in memory.

    It is read, and not announced alone with ``posix_fadvise``: on a virtual machine a page costs
    five times as much the first time that a processor touches it.

    :param available: bytes of memory; a file that would take much of them is left alone.
    :param pause: called between pieces of a megabyte.
    :returns: bytes read.
    :raises OSError: the file cannot be read.
    """
    done, piece = 0, bytearray(_PIECE)
    with open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > available // _SHARE:
            return 0
        while read := file.readinto(piece):
            done += read
            pause()
    return done
