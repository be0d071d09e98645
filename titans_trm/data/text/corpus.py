"""Documents: where text comes from and what may not be cut apart."""

import hashlib
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from titans_trm.data.files import decompress, read_bytes
from titans_trm.errors import InputError

# Left out of the default corpus: tests and generated tables repeat each other, the rest is not the library's.
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "encodings", "site-packages", "dist-packages", "__pycache__"}
_SKIPPED_PREFIX = "_sysconfigdata"


@dataclass(frozen=True)
class Document:
    """Text that lies in one split as a whole."""

    name: str
    key: str  # group key
    content: bytes  # UTF-8 without NUL


def stdlib_documents() -> list[Document]:
    """Return one document per top-level module or package of the standard library, its *.py files joined.

    The key is the package's name, so a package stays in its split whatever the version of Python.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    packages: dict[str, list[bytes]] = {}
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        parts = path.relative_to(folder).parts
        if not _SKIPPED_FOLDERS & set(parts) and not path.name.startswith(_SKIPPED_PREFIX):
            content = path.read_bytes()
            if _fault(content) is None:  # a few sources are not UTF-8 on purpose
                packages.setdefault(parts[0].removesuffix(".py"), []).append(content)
    if not packages:
        raise InputError(
            f"{folder} holds no Python sources (a stripped installation); give a text with data.train_file=PATH."
        )
    return [Document(name, _key(f"stdlib:{name}".encode()), b"\n".join(parts)) for name, parts in packages.items()]


def stdlib_version() -> str:
    """Return the version of Python whose library is read."""
    return ".".join(map(str, sys.version_info[:3]))


def read_documents(path: str, pattern: str) -> list[Document]:
    """Return the text of a file, or of the files of a folder that match `pattern`, in order of their names.

    `InputError` names a file that is missing, empty or no UTF-8 text.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return [_read(path)]
    for _ in os.walk(folder, onerror=_refuse_folder):  # rglob leaves out what it may not list, without a word
        pass
    try:
        names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob(pattern) if file.is_file())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be searched for data.pattern={pattern!r} ({error}).") from None
    if not names:
        raise InputError(f"{path}: no file matches data.pattern={pattern!r}; choose e.g. *.txt.")
    return [_read(str(folder / name)) for name in names]


def _refuse_folder(error: OSError) -> None:
    raise InputError(
        f"{error.filename}: cannot be listed ({error.strerror}); check the rights of the folder."
    ) from None


def _read(path: str) -> Document:
    content = decompress(path, read_bytes(path))
    if (fault := _fault(content)) is not None:
        raise InputError(f"{path}: {fault}")
    return Document(path, _key(content), content)


def _fault(content: bytes) -> str | None:
    """Return why bytes are no text, if so."""
    if not content:
        return "the file is empty; give one with text."
    if (place := content.find(b"\0")) >= 0:
        return f"byte {place + 1} is NUL, so this is no text; leave it out, e.g. with data.pattern=*.txt."
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8."
    return None


def _key(content: bytes) -> str:
    return hashlib.sha256(b"text" + content).hexdigest()
