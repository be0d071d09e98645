"""docs/diagnostics.md lists every rule with its thresholds, as they are in the code."""

import re
from pathlib import Path

from titans_trm.diagnostics.catalogue import RULES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "diagnostics.md"
BEGIN = "<!-- rules: made by python tests/diagnostics/test_rules_page.py -->\n"
END = "<!-- end of rules -->"


def table() -> str:
    lines = ["| rule | what it means | severity | evidence | thresholds | source |", "|---|---|---|---|---|---|"]
    for rule in RULES:
        meaning = " ".join((rule.__doc__ or "").split())
        limits = ", ".join(f"{name} {value:g}" for name, value in rule.default_limits().items()) or "-"
        explained = " ".join(
            (rule.default_limits.__doc__ or "").removeprefix("Name and explain the thresholds.").split()
        ).rstrip(".")
        told = f"{limits} ({explained})" if rule.default_limits() else limits
        evidence = f"{rule.needed} of {rule.window}" + ("" if rule.warm_up else ", at once")
        lines.append(f"| `{rule.id}` | {meaning} | {rule.severity} | {evidence} | {told} | {rule.source} |")
    return "\n".join(lines) + "\n"


def test_the_page_lists_every_rule_as_it_is() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == table(), "run python tests/diagnostics/test_rules_page.py"


def test_every_threshold_is_explained() -> None:
    for rule in RULES:
        explained = rule.default_limits.__doc__ or ""
        for name in rule.default_limits():
            assert re.search(rf"\b{name}\b", explained), f"{rule.id}.{name}"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
