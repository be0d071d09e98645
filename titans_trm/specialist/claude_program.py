"""The child process that talks to the agent: a request as JSON on stdin, an ending as JSON on stdout.

Facts about the SDK behind the settings here: plan mode still runs Bash; `@path` in a prompt reads files; project hooks
run unless `setting_sources` is empty; a budget is checked after a turn, not before; an API error is a "success".
"""

import asyncio
import json
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

from titans_trm.specialist.agent_tools import SERVER, guard, make_server, tool_names
from titans_trm.specialist.protocol import answer_schema, read_context
from titans_trm.specialist.redact import fenced, scrub
from titans_trm.specialist.texts import prompt

READ = ("Read", "Grep", "Glob")
WRITE = ("Write", "Edit")
NEVER = ("Bash", "NotebookEdit", "WebFetch", "WebSearch", "Task")
# Flags of the program that the SDK has no field for; those that this version knows are set.
_FLAGS: dict[str, str | None] = {"no-session-persistence": None, "restricted": None, "permission-prompts": "none"}
_STDERR_LINES = 20


def main() -> None:
    """Read the request, make the call within its time limit, write the ending."""
    request = json.loads(sys.stdin.read())
    calls: list[dict[str, Any]] = []
    stderr: deque[str] = deque(maxlen=_STDERR_LINES)
    try:
        answer = asyncio.run(_call(request, calls, stderr))
    except Exception as error:
        answer = _ending(*_named(error))
    answer["details"] |= {"tool_calls": calls}
    if answer["ending"] != "answered":
        answer["details"]["stderr"] = scrub("\n".join(stderr))[-500:]
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()


async def _call(request: dict[str, Any], calls: list[dict[str, Any]], stderr: deque[str]) -> dict[str, Any]:
    from claude_agent_sdk import ClaudeSDKClient, ResultMessage, SystemMessage

    context = read_context(request["context"])
    options = build_options(request, calls, stderr)
    seconds = float(request["config"]["timeout_seconds"])
    details: dict[str, Any] = {}
    last: ResultMessage | None = None
    client = ClaudeSDKClient(options)
    await asyncio.wait_for(client.connect(), seconds)
    try:
        async with asyncio.timeout(seconds):
            await client.query(fenced(context))
            async for message in client.receive_response():
                if isinstance(message, SystemMessage) and message.subtype == "init":
                    details |= {
                        "program": message.data.get("claude_code_version"),
                        "tools": message.data.get("tools"),
                        "permission_mode": message.data.get("permissionMode"),
                    }
                if isinstance(message, ResultMessage):
                    last = message
    except TimeoutError:
        await client.interrupt()  # else the program takes seconds to leave
        return _ending("timeout", f"no answer within {seconds:g} s", details)
    finally:
        await client.disconnect()
    return _judge(last, details)


def build_options(request: dict[str, Any], calls: list[dict[str, Any]], stderr: deque[str]) -> Any:
    """Return the agent's options: isolated, and with no tool that could run code or leave the workspace."""
    from claude_agent_sdk import ClaudeAgentOptions, HookMatcher

    config, workspace, write = request["config"], request["workspace"], request["write"]
    tools = [*READ, *(WRITE if write else ())] if workspace else []
    folder = Path(workspace) if workspace else Path.cwd()
    allowed = [*tool_names(), "StructuredOutput"]
    return ClaudeAgentOptions(
        tools=tools,
        allowed_tools=tool_names() + ([*WRITE] if write else []),
        disallowed_tools=[*NEVER, *(() if write else WRITE)],
        permission_mode="acceptEdits" if write else config["permission_mode"],
        system_prompt=prompt(write=write),
        setting_sources=[],
        strict_mcp_config=True,
        verbatim_prompts=True,
        cwd=folder,
        max_turns=config["max_turns"],
        max_budget_usd=config["max_budget_usd"],
        model=config["model"],
        output_format={"type": "json_schema", "schema": answer_schema()},
        hooks={"PreToolUse": [HookMatcher(hooks=[guard(folder, [*tools, *allowed], calls)], on_failure="block")]},
        mcp_servers={SERVER: make_server(request["context"])},
        extra_args=known_flags(),
        stderr=stderr.append,
    )


def known_flags() -> dict[str, str | None]:
    """Return those of the wanted flags that the bundled program knows."""
    import claude_agent_sdk

    program = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    if not program.is_file():
        return {}
    text = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=20).stdout
    return {name: value for name, value in _FLAGS.items() if f"--{name}" in text}


def _judge(last: Any, details: dict[str, Any]) -> dict[str, Any]:
    """Tell a real success from what only looks like one."""
    if last is None:
        return _ending("failed", "the agent ended without a result", details)
    details |= {"turns": last.num_turns, "cost_usd": last.total_cost_usd, "subtype": last.subtype}
    if last.api_error_status:
        return _ending("api_error", f"the service answered {last.api_error_status}: {last.result}", details)
    if last.subtype in ("error_max_budget_usd", "error_max_turns"):
        return _ending("budget", f"stopped by {last.subtype.removeprefix('error_')}", details)
    if last.subtype != "success":
        malformed = last.subtype == "error_max_structured_output_retries"
        return _ending("malformed" if malformed else "failed", str(last.subtype), details)
    if last.is_error:
        return _ending("api_error", str(last.result), details)
    if last.structured_output is None:
        return _ending("malformed", "the agent answered in words instead of a results package", details)
    return _ending("answered", "", details) | {"results": last.structured_output}


def _ending(ending: str, reason: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"ending": ending, "reason": reason, "details": details or {}}


def _named(error: Exception) -> tuple[str, str]:
    """Return the ending and the reason of an exception."""
    name = type(error).__name__
    ending = {"CLINotFoundError": "unavailable", "ImportError": "unavailable", "TimeoutError": "timeout"}.get(name)
    return ending or "failed", f"{name}: {error}"
