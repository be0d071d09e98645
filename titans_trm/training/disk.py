"""When the disk is full, read-only or broken: which file it was, and what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from titans_trm.errors import InputError

_FULL = "free space on its disk (`df -h`)"
_LOCKED = "make its folder writable for you (`ls -ld`, `mount`)"
_CURES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EROFS: _LOCKED,
    errno.EACCES: _LOCKED,
    errno.EPERM: _LOCKED,
    errno.EIO: "check its disk",
    errno.ESTALE: "check its network drive",
}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an `OSError` say that it was about `path`: one that comes from writing to an open file does not know."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextmanager
def disk_trouble_told(folder: Path, command: str) -> Iterator[None]:
    """Make one clear message of an `OSError` that only the user can do something about.

    Args:
        folder: of the run, named where the error does not know its file.
        command: continues the run.

    Raises:
        InputError: in place of such an `OSError`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _CURES:
            raise
        raise InputError(
            f"{_file_of(error) or f'a file in {folder}'} could not be written ({error.strerror}); the checkpoints "
            f"written before are whole. To go on, {_CURES[error.errno]} and continue with: {command}"
        ) from error


def _file_of(error: BaseException) -> str | None:
    """Return the file of an error or of one before it: what closes a run meets the same disk again."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.filename:
            return str(seen.filename)
        seen = seen.__cause__ or seen.__context__
    return None
