"""A git worktree for an agent: tracked files only, apart from the running tree, reviewed by a person afterwards."""

import contextlib
import subprocess
import tempfile
from pathlib import Path

from titans_trm.errors import InputError


class Worktree:
    """A checkout of HEAD in a folder of its own; made on entry.

    Args:
        root: the repository.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = Path(tempfile.mkdtemp(prefix="specialist-")) / "worktree"

    def create(self) -> "Worktree":
        """Check out HEAD.

        Raises:
            InputError: there is no git repository with a commit.
        """
        result = self._git(self.root, "worktree", "add", "--detach", str(self.path), "HEAD")
        if result.returncode != 0:
            raise InputError(f"{self.root} gives no worktree ({_last(result.stderr)}); make a commit first.")
        return self

    def patch(self) -> str:
        """Return everything that was changed, new files included, as a patch; nothing is committed."""
        self._git(self.path, "add", "--intent-to-add", "--all")
        return self._git(self.path, "diff", "--no-ext-diff", "HEAD").stdout

    def remove(self) -> None:
        """Take the worktree away."""
        self._git(self.root, "worktree", "remove", "--force", str(self.path))
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()

    @staticmethod
    def _git(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
        command = ["git", "-c", "core.hooksPath=/dev/null", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def repository(folder: Path) -> Path | None:
    """Return the root of the git repository around `folder`, or None."""
    command = ["git", "rev-parse", "--show-toplevel"]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20)
    except OSError:
        return None
    return Path(result.stdout.strip()) if result.returncode == 0 else None


def _last(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "git said nothing"
