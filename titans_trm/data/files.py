"""Read a user's file, or say in one sentence why not."""

import gzip
import hashlib
import zlib
from pathlib import Path

from titans_trm.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"


def read_bytes(path: str) -> bytes:
    """Return the bytes of a file; `InputError` when it is missing, a folder, or may not be read."""
    try:
        return Path(path).expanduser().read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: file not found; check the path (relative ones start at {Path.cwd()}).") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, not a file; name the CSV file in it.") from None
    except PermissionError:
        raise InputError(f"{path}: permission denied; make the file readable for this user.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the disk or copy the file.") from error


def decode(path: str, raw: bytes) -> str:
    """Return UTF-8 text, unpacked when it is gzip; `InputError` names the line that is not UTF-8."""
    raw = decompress(path, raw)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: line {line}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8."
        ) from None


def decompress(path: str, raw: bytes) -> bytes:
    """Return unpacked gzip, or plain bytes as they are; `InputError` when a gzip file is damaged."""
    if not raw.startswith(_GZIP_MAGIC):
        if path.endswith(".gz") and raw:
            raise InputError(f"{path}: is named .gz but is not gzip; rename it or pack it again.")
        return raw
    try:
        return gzip.decompress(raw)
    except EOFError:
        raise InputError(f"{path}: the gzip file is truncated; copy or download it again.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: the gzip file is damaged ({error}); copy or download it again.") from None


def sha256(raw: bytes) -> str:
    """Return the SHA-256 of bytes in hexadecimal."""
    return hashlib.sha256(raw).hexdigest()
