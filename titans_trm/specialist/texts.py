"""The specialist's own texts: prompt, process diagram, references, templates."""

import string
from importlib import resources

from titans_trm.errors import InputError

REFERENCES = ("pytorch-best-practices", "architecture-patterns", "optimization-techniques", "testing-guide")


def read(name: str) -> str:
    """Return the text of a resource such as `process.dot` or `references/testing-guide.md`.

    Raises:
        InputError: there is none of that name.
    """
    file = resources.files("titans_trm.specialist").joinpath("resources", *name.split("/"))
    try:
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{name} is not a resource of the specialist.") from error


def prompt(*, write: bool = False) -> str:
    """Return the agent's system prompt, for advice or for carrying out an approved plan."""
    rest = "prompt-implement.md" if write else "prompt-advise.md"
    return read("prompt.md") + "\n" + read(rest)


def render(template: str, **values: str) -> str:
    """Return a template with `$name` replaced; a name without a value is an error."""
    return string.Template(read(f"templates/{template}")).substitute(values)
