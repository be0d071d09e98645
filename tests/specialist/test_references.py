"""The references' code runs."""

import re

import pytest

from titans_trm.specialist.texts import REFERENCES, read


@pytest.mark.parametrize("name", REFERENCES)
def test_code_of_a_reference_runs(name: str) -> None:
    text = read(f"references/{name}.md")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert blocks and text.startswith("# ")
    for block in blocks:
        exec(compile(block, name, "exec"), {"__name__": "reference"})
