"""What an agent may do: read-only tools on its package, our own tools, and a guard before every tool call."""

import json
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from titans_trm.errors import InputError
from titans_trm.specialist.redact import scrub

SERVER = "titans_trm"
_PATH_ARGUMENTS = ("file_path", "path", "notebook_path", "pattern", "glob")
# Examples and scores of a test set, by the names they have in run folders and caches.
_TEST_SET = re.compile(
    r"(^|/)evaluation/test|test_ledger|(^|/|_|-)test[\w.-]*\.(csv|csv\.gz|npz|npy|pt|parquet|jsonl?)$"
)

Guard = Callable[[Any, str | None, Any], Awaitable[Any]]


def tool_names() -> list[str]:
    """Return the names under which an agent sees our tools."""
    return [f"mcp__{SERVER}__{name}" for name in ("get_measurements", "get_config_value", "get_history", *_OWN)]


def guard(folder: Path, allowed: Iterable[str], calls: list[dict[str, Any]]) -> Guard:
    """Return a hook that denies every tool but `allowed`, every path outside `folder`, and anything of a test set.

    Every call is written to `calls`, denied ones too.
    """
    known = frozenset(allowed)
    root = folder.resolve()

    async def before(data: Any, tool_use_id: str | None, context: Any) -> dict[str, Any]:
        reason = denial(data["tool_name"], data["tool_input"], known, root)
        calls.append({"tool": scrub(str(data["tool_name"])), "allowed": reason is None} | _why(reason))
        if reason is None:
            return {}
        decision = {"permissionDecision": "deny", "permissionDecisionReason": reason}
        return {"hookSpecificOutput": {"hookEventName": "PreToolUse", **decision}}

    return before


def denial(tool: str, arguments: dict[str, Any], allowed: frozenset[str], root: Path) -> str | None:
    """Return why a tool call is denied, or None."""
    if tool not in allowed:
        return f"{tool} is not available here"
    if tool.startswith("mcp__") or tool == "StructuredOutput":
        return None
    for name in _PATH_ARGUMENTS:
        value = arguments.get(name)
        if not isinstance(value, str):
            continue
        if _TEST_SET.search(value):
            return "the test set is out of bounds"
        if name == "pattern" and tool == "Grep":
            continue  # an expression, not a path
        path = Path(value)
        target = (path if path.is_absolute() else root / path).resolve()
        if not target.is_relative_to(root):
            return "only files of the workspace are within bounds"
        if ".git" in target.relative_to(root).parts:
            return "the repository's own records are out of bounds"
    return None


def make_server(context: dict[str, Any]) -> Any:
    """Return the in-process tool server of one call."""
    from claude_agent_sdk import ToolAnnotations, create_sdk_mcp_server, tool

    read_only = ToolAnnotations(readOnlyHint=True)

    def offer(name: str, description: str, schema: dict[str, Any], answer: Callable[[dict[str, Any]], Any]) -> Any:
        @tool(name, description, schema, annotations=read_only)
        async def call(arguments: dict[str, Any]) -> dict[str, Any]:
            try:
                return _text(answer(arguments))
            except (InputError, KeyError, ValueError) as error:
                return _text(f"error: {error}") | {"is_error": True}

        return call

    tools = [
        offer("get_measurements", "Latest measured values of the run, by name.", {}, lambda _: context["measurements"]),
        offer("get_config_value", "One value of the run's configuration.", {"key": str}, _config_value(context)),
        offer("get_history", "Remedies tried before, and what came of them.", {}, lambda _: context["history"]),
        *(offer(name, text, schema, answer) for name, (text, schema, answer) in _OWN.items()),
    ]
    return create_sdk_mcp_server(SERVER, "1.0.0", tools)


def _config_value(context: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda arguments: context.get("config", {}).get(arguments["key"], "not part of this package")


def _skeleton(arguments: dict[str, Any]) -> Any:
    from titans_trm.specialist.tools import create_model_skeleton

    return {file.path: file.text for file in create_model_skeleton(arguments["name"])}


def _tests(arguments: dict[str, Any]) -> Any:
    from titans_trm.specialist.tools import add_tests

    file = add_tests(arguments["target"])
    return {file.path: file.text}


def _validate(arguments: dict[str, Any]) -> Any:
    from titans_trm.specialist.architecture import validate_architecture

    return [finding.to_dict() for finding in validate_architecture(json.loads(arguments["config"]))]


_OWN: dict[str, tuple[str, dict[str, Any], Callable[[dict[str, Any]], Any]]] = {
    "create_model_skeleton": ("Text of a new model, its configuration and its tests.", {"name": str}, _skeleton),
    "add_tests": ("Text of tests for a model class, given as module:Class.", {"target": str}, _tests),
    "validate_architecture": ("Check a model configuration (JSON) against its budgets.", {"config": str}, _validate),
}


def _text(value: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value if isinstance(value, str) else json.dumps(value)}]}


def _why(reason: str | None) -> dict[str, str]:
    return {} if reason is None else {"reason": reason}
