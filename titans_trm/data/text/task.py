"""Language modelling on bytes: predict each byte from those before it.

Tokens are the bytes themselves; 0, which text does not hold, stands before the first byte of a document and pads the
last window. The shift by one lies here and nowhere else: `inputs[t]` is the byte before `targets[t]`. Windows follow
each other without overlap, so every byte is predicted once, and bits per byte are nats / ln 2 over all bytes scored.

A document (package, file, or contiguous part of a single file) lies in one split. What val and test share with train
word for word, in runs of `data.mask_window` bytes, is read but not scored.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from titans_trm.data.cache import Built, cached
from titans_trm.data.examples import ExampleSet
from titans_trm.data.folds import split_fold
from titans_trm.data.sources import root
from titans_trm.data.spec import TaskSpec
from titans_trm.data.splits import split_by_group
from titans_trm.data.text.config import TextConfig
from titans_trm.data.text.corpus import Document, read_documents, stdlib_documents, stdlib_version
from titans_trm.data.text.overlap import KnownRuns
from titans_trm.errors import InputError

_VOCABULARY = 256


class TextTask:
    """Predict the next byte."""

    generator_version = 1
    reader_version = 1
    augment = None

    def __init__(self, seq_len: int) -> None:
        self.spec = TaskSpec(
            name=f"text_{seq_len}",
            seq_len=seq_len,
            vocab_size=_VOCABULARY,
            causal=True,
            byte_offset=0,
            own_folds=True,
            headline="bits_per_byte",
            exactness="A window is exactly right when every byte is the most likely one; bits per byte is the measure.",
        )

    @classmethod
    def from_config(cls, config: TextConfig) -> "TextTask":
        """Return the task of a configuration."""
        return cls(config.seq_len)

    def splits(self, config: TextConfig) -> Built:
        """Return `train`, `val` and `test` windows, and manifest entries (cached by content)."""
        documents, entries = self._documents(config)
        identity = {
            "kind": "text",
            "task": self.spec.name,
            "reader_version": self.reader_version,
            "documents": {name: _digest(parts) for name, parts in documents.items()},
            "mask_window": config.mask_window,
        }

        def build() -> Built:
            known = KnownRuns(_joined(documents["train"]), config.mask_window)
            sets, shares = {"train": self.windows("train", documents["train"])}, {}
            for name in ("val", "test"):
                sets[name], shares[name] = self._masked(name, documents[name], known)
            return sets, {"share_also_in_train": shares}

        sets, found = cached(root(config), f"{self.spec.name}-{config.resolved_source}", identity, build)
        return sets, {**entries, **found}

    def read_examples(self, path: str, config: TextConfig) -> tuple[ExampleSet, dict[str, Any]]:
        """Return the windows of a file or folder, all bytes scored, and manifest entries."""
        documents = read_documents(path, config.pattern)
        return self.windows(path, documents), {"sha256": _digest(documents), "licence": "the file's own"}

    def windows(self, name: str, documents: list[Document]) -> ExampleSet:
        """Return all bytes of the documents in windows; no window holds two documents."""
        length = self.spec.seq_len
        inputs, targets, keys, sources = [], [], [], []
        for document in documents:
            text = np.frombuffer(document.content, dtype=np.uint8)
            count = -(-len(text) // length)
            padded = np.zeros(1 + count * length, dtype=np.uint8)
            padded[1 : 1 + len(text)] = text
            targets.append(padded[1:].reshape(count, length))
            # The last byte is nobody's input, and after the end of the text there is nothing to read.
            inputs.append(np.where(targets[-1] > 0, padded[:-1].reshape(count, length), np.uint8(0)))
            keys += [document.key] * count
            sources += [document.name] * count
        return ExampleSet(
            name=name,
            inputs=torch.from_numpy(np.concatenate(inputs)),
            targets=torch.from_numpy(np.concatenate(targets)),
            keys=keys,
            sources=sources,
            ratings=torch.zeros(len(keys), dtype=torch.int64),
        )

    def canonical_keys(self, inputs: Tensor, targets: Tensor) -> list[str]:
        """Return the hash of the bytes of each `(B, N)` window; the group of an `ExampleSet` is its whole document."""
        return [hashlib.sha256(b"text" + row.tobytes().strip(b"\0")).hexdigest() for row in targets.numpy()]

    def validate(self, inputs: Tensor, targets: Tensor) -> None:
        """Raise `InputError` naming the first `(B, N)` window whose inputs are not its targets shifted by one."""
        scored = (targets[:, :-1] > 0) & (inputs[:, 1:] > 0)
        wrong = ((inputs[:, 1:] != targets[:, :-1]) & scored).any(dim=1).nonzero().flatten()
        if len(wrong):
            raise InputError(f"window {int(wrong[0])}: an input is not the byte before its target; build it again.")

    def _documents(self, config: TextConfig) -> tuple[dict[str, list[Document]], dict[str, Any]]:
        """Return the documents of each split, and manifest entries."""
        fractions = dict(config.fractions)
        if config.resolved_source == "stdlib":
            documents = stdlib_documents()
            entries: dict[str, Any] = {
                "licence": "PSF-2.0",
                "python_version": stdlib_version(),
                "note": "compare bits per byte between equal sha256 only: sources differ between versions of Python",
                "split_rule": "top-level packages stay whole, in order of sha256(seed, package)",
            }
            found = _by_document(documents, fractions, config.seed)
        else:
            assert config.train_file is not None
            documents = read_documents(config.train_file, config.pattern)
            if config.test_file is not None:
                del fractions["test"]
            whole = len(documents) > len(fractions)
            cut = _by_document if whole else _by_place
            found = cut(documents, fractions, config.seed)
            entries = {
                "licence": "the file's own",
                "files": {config.train_file: {"sha256": _digest(documents)}},
                "split_rule": "files stay whole, in order of sha256(seed, content)"
                if whole
                else "contiguous: train, then val, then test",
            }
            if config.test_file is not None:
                found["test"] = read_documents(config.test_file, config.pattern)
                entries["files"][config.test_file] = {"sha256": _digest(found["test"])}
        if config.fold is not None:
            pool = found["train"] + found["val"]
            rows = split_fold([part.key for part in pool], config.fold, config.num_folds, f"fold-{config.seed}")
            found |= {name: [pool[row] for row in chosen.tolist()] for name, chosen in rows.items()}
        sizes = {name: sum(len(document.content) for document in parts) for name, parts in found.items()}
        return found, {**entries, "rating_kind": "none", "sha256": _digest(documents), "bytes": sizes}

    def _masked(self, name: str, documents: list[Document], train: KnownRuns) -> tuple[ExampleSet, float]:
        """Return windows in which what `train` has too is not scored, and its share of the bytes."""
        examples = self.windows(name, documents)
        text = _joined(documents)
        marks = train.covered(text)[text > 0]
        scored = examples.targets > 0
        targets = examples.targets.clone()
        targets[scored] = torch.where(torch.from_numpy(marks), torch.zeros_like(targets[scored]), targets[scored])
        if not (targets > 0).any():
            raise InputError(
                f"all {len(marks):,} bytes of {name} also occur in train (in runs of "
                f"data.mask_window={train.window} bytes), so nothing is left to score; give another text."
            )
        kept = (targets > 0).any(dim=1).nonzero().flatten()  # windows without a scored byte cost time and say nothing
        masked = ExampleSet(name, examples.inputs, targets, examples.keys, examples.sources, examples.ratings)
        return masked.select(kept), float(marks.mean())


def _by_document(documents: list[Document], fractions: dict[str, float], seed: int) -> dict[str, list[Document]]:
    """Deal whole documents out by their share of the bytes; equal documents stay together."""
    unit = max(1, sum(len(document.content) for document in documents) // 10_000)  # of bytes, small enough for shares
    owners = [i for i, document in enumerate(documents) for _ in range(max(1, len(document.content) // unit))]
    rows = split_by_group([documents[i].key for i in owners], fractions, f"split-{seed}")
    return {
        name: [documents[i] for i in sorted({owners[row] for row in chosen.tolist()})] for name, chosen in rows.items()
    }


def _by_place(documents: list[Document], fractions: dict[str, float], seed: int) -> dict[str, list[Document]]:
    """Cut the text into contiguous parts: train first, then the others in order."""
    text = b"\n".join(document.content for document in documents)
    parts: dict[str, list[Document]] = {}
    end = len(text)
    for name, share in reversed(fractions.items()):
        start = end - max(1, round(share * len(text)))
        parts[name], end = [_part(documents[0].name, name, text[start:end])], start
    if end < 1:
        raise InputError(f"{documents[0].name}: {len(text)} bytes are too few for {len(fractions) + 1} splits.")
    parts["train"] = [_part(documents[0].name, "train", text[:end])]
    return {name: parts[name] for name in ("train", *fractions)}


def _part(path: str, name: str, content: bytes) -> Document:
    return Document(f"{path} ({name})", hashlib.sha256(b"text" + content).hexdigest(), content)


def _joined(documents: list[Document]) -> np.ndarray:
    """Return the bytes of all documents, a NUL between two, so that no run of text spans both."""
    return np.frombuffer(b"\0".join(document.content for document in documents), dtype=np.uint8)


def _digest(documents: list[Document]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(len(document.content).to_bytes(8, "little") + document.content)
    return digest.hexdigest()
