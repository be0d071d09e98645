"""Execute every notebook of a folder in a kernel of this environment; outputs are not kept."""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

SECONDS_PER_CELL = 600


def main(folder: str) -> None:
    """Run the notebooks in `folder` in order of name; the first error ends the process with its traceback."""
    paths = sorted(Path(folder).glob("*.ipynb"))
    if not paths:
        sys.exit(f"{folder} holds no notebook.")
    for path in paths:
        started = time.monotonic()
        notebook = nbformat.read(path, as_version=4)
        stale = [number for number, cell in enumerate(notebook.cells) if cell.get("outputs")]
        if stale:
            sys.exit(f"{path}: cells {stale} have outputs; clear them before committing.")
        NotebookClient(
            notebook, timeout=SECONDS_PER_CELL, kernel_name="python3", resources={"metadata": {"path": path.parent}}
        ).execute()
        sys.stdout.write(f"{path}: {len(notebook.cells)} cells in {time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    main(sys.argv[1])
