"""Open the file that a handler replied with, and say what it is.

Only regular files are served, and with `root` only what is inside it once
every symbolic link has been followed. Whatever can't be served is NotFound: a
peer learns nothing of what exists beside it.

Opening and asking the kernel for size and times is done where it is called:
on a local disk that takes microseconds. A file system that can hang (NFS) is
better behind another server.

Not here: conditions and ranges (`oread.protocols.http_conditions`), and
sending (`oread.listeners.http_files`).
"""

from __future__ import annotations

import errno
import functools
import mimetypes
import os
import stat
import time

import attrs

from oread.errors import Busy, HandlerError, MessageError, NotFound
from oread.messages import FileReply

WHOLE_BYTES = 1 << 20
"""Longest file that is one payload, on transports other than HTTP (as `message_bytes`)."""
SETTLED_SECONDS = 1.0
"""Age from which equal times and sizes mean equal bytes: clocks of file systems tick by milliseconds."""

_HIDDEN = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.ENXIO, errno.EISDIR),
)
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_PACKED_TYPES = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_ANY_TYPE = "application/octet-stream"


@attrs.define(eq=False)
class OpenFile:
    """A regular file, open for reading; who has it closes it."""

    fd: int
    size: int
    modified: int
    """Whole seconds since the epoch, never in the future."""
    etag: str
    is_settled: bool
    """Whether equal etags mean equal bytes; else it is written as a weak one."""

    def close(self) -> None:
        """Close it; harmless when it is closed."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def open_file(reply: FileReply) -> OpenFile:
    """Open what a handler replied with.

    Raises:
        NotFound: there is no regular file that may be served.
        Busy: the process has no descriptor left.
        HandlerError: the system can't read it.
    """
    path = _resolve(reply)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO would wait for its writer
    try:
        fd = os.open(path, flags | (os.O_NOFOLLOW if reply.root is not None else 0))
        found = _look_at(fd)
    except (OSError, ValueError) as error:  # ValueError: no path at all, such as a lone surrogate in it
        raise _explain(error) from error
    now = time.time()
    is_settled = now - found.st_mtime >= SETTLED_SECONDS
    etag = f'"{found.st_size:x}-{found.st_mtime_ns:x}-{found.st_ino:x}"'
    return OpenFile(
        fd=fd,
        size=found.st_size,
        modified=max(0, int(min(found.st_mtime, now))),
        etag=etag if is_settled else f"W/{etag}",
        is_settled=is_settled,
    )


def _look_at(fd: int) -> os.stat_result:
    """Return what the kernel knows of an open file; closes it when it is no regular one."""
    regular = False
    try:
        found = os.fstat(fd)
        regular = stat.S_ISREG(found.st_mode)
    finally:
        if not regular:
            os.close(fd)
    if not regular:
        raise FileNotFoundError(errno.ENOENT, "no regular file")
    return found


def _resolve(reply: FileReply) -> str:
    path = reply.path
    if "\0" in path or not path:
        raise NotFound("there is no such file")
    if reply.root is None:
        return path
    if not {"", ".", ".."}.isdisjoint(path.split("/")):  # an absolute one begins with an empty part
        raise NotFound("there is no such file")
    try:
        root = os.path.realpath(reply.root)
        real = os.path.realpath(os.path.join(root, path))
    except (OSError, ValueError) as error:
        raise _explain(error) from error
    if not real.startswith(root.rstrip("/") + "/"):
        raise NotFound("there is no such file")
    return real


def _explain(error: OSError | ValueError) -> MessageError:
    if not isinstance(error, OSError) or error.errno in _HIDDEN:
        return NotFound("there is no such file")
    if error.errno in _OUT_OF_RESOURCES:
        return Busy("no descriptor is left for the file")
    return HandlerError(f"a file can't be read: {error}")


def read_file(reply: FileReply) -> bytes:
    """Read all of it, as one payload.

    Raises:
        HandlerError: it can't be served, or is longer than `WHOLE_BYTES`.
    """
    try:
        opened = open_file(reply)
    except MessageError as error:
        raise HandlerError(f"{reply.path!r} can't be sent: {error}") from error
    try:
        data = os.pread(opened.fd, WHOLE_BYTES + 1, 0)
    except OSError as error:
        raise HandlerError(f"{reply.path!r} can't be read: {error}") from error
    finally:
        opened.close()
    if len(data) > WHOLE_BYTES:
        raise HandlerError(f"{reply.path!r} has more than {WHOLE_BYTES} bytes; such files go by HTTP only")
    return data


def content_type_of(path: str) -> str:
    """Return the media type that a name stands for; text is UTF-8 by name."""
    known = _known_types()
    _, extension = os.path.splitext(path.lower())
    if packed := known.encodings_map.get(extension):
        return _PACKED_TYPES.get(packed, _ANY_TYPE)
    found = known.types_map[True].get(known.suffix_map.get(extension, extension), _ANY_TYPE)
    return f"{found}; charset=utf-8" if found.startswith("text/") else found


@functools.cache
def _known_types() -> mimetypes.MimeTypes:
    """Return what Python knows: the tables of one machine would change what is served."""
    return mimetypes.MimeTypes()
