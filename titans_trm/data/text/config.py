"""Configuration of the task `text`."""

from dataclasses import dataclass
from typing import Literal

from titans_trm.data.config import FileFields, at_least, one_of


@dataclass(frozen=True, kw_only=True)
class TextConfig(FileFields):
    """Predict the next byte of text: the Python standard library's sources, or any file or folder of UTF-8 text."""

    task: Literal["text"] = "text"
    source: Literal["stdlib", "file"] = "stdlib"  # stdlib: *.py of this Python, split by package; file: train_file
    augment: bool = False  # text has no symmetries
    seq_len: int = 512  # N, bytes of one window; each byte of a text is predicted in exactly one window
    pattern: str = "*"  # which files of a folder are read, e.g. *.txt
    mask_window: int = 50  # bytes of val and test in a run of this length that train has too are not scored; 0: off

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("data.source", self.source, ("stdlib", "file"))
        at_least("data.seq_len", self.seq_len, 2)
        if self.split_by != "group":
            raise ValueError(f"data.split_by={self.split_by} is not for text, which is cut by document; use group.")
        at_least("data.mask_window", self.mask_window, 0)
        if not self.pattern:
            raise ValueError("data.pattern='' names no file; choose e.g. * or *.txt.")
