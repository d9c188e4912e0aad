"""Put a whole file in its place at once, or leave the place as it was."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import OrchestratorError


class OutputError(OrchestratorError):
    """A file cannot be written where it is to be; what was there is still there."""


@contextmanager
def atomically(path: Path, *, replace: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which is at the path once all of it is on disk, and not before.

    It is written beside that, for nobody else to read. No link is followed.

    Args:
        path: Where it is to be.
        replace: Whether it may take the place of a file of ours.

    Raises:
        OutputError: something is in its place that is not to be replaced, or it cannot be written.
    """
    need_place(path, replace=replace)
    draft = path.with_name(f".{secrets.token_hex(8)}.draft")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    try:
        try:
            with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _put(draft, path, replace=replace)
        finally:
            with suppress(OSError):
                draft.unlink()
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; make room or name another place"
        ) from error


def need_place(path: Path, *, replace: bool) -> None:
    """Refuse a place where no file of ours can be, for who wants to know before there is one.

    Args:
        path: Where one is to be.
        replace: Whether it may take the place of a file of ours.

    Raises:
        OutputError: there is no such folder, or something is there that is not to be replaced.
    """
    try:
        there = path.lstat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise OutputError(f"{path} cannot be written: there is no such folder") from None
        return
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    if not stat.S_ISREG(there.st_mode):
        kind = "a link" if stat.S_ISLNK(there.st_mode) else "no ordinary file"
        raise OutputError(f"{path} is {kind}, and is left alone; name another file")
    if not replace:
        raise _is_there(path)
    if hasattr(os, "getuid") and there.st_uid != os.getuid():
        raise OutputError(f"{path} belongs to another user, and is left alone; name another file")


def _is_there(path: Path) -> OutputError:
    return OutputError(f"{path} exists already, and is left alone; name another file, or remove it")


def _put(draft: Path, path: Path, *, replace: bool) -> None:
    if replace:
        draft.replace(path)
    else:
        try:
            path.hardlink_to(draft)  # unlike a renaming, never in the place of another
        except FileExistsError:
            raise _is_there(path) from None
        except OSError:  # a file system that knows no such links
            draft.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
