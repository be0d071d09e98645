"""`specialist=claude`: an agent of `claude_agent_sdk`, read-only, isolated, in a process of its own.

The call is made by `claude_program` in a child with a clean environment: the SDK hands its whole environment on to the
agent, and a thread would share the trainer's, secrets included. Time limit, crash and orphans are then one matter.
"""

import importlib.util
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from titans_trm.errors import InputError
from titans_trm.specialist.command import Ran, run_program
from titans_trm.specialist.config import SpecialistConfig
from titans_trm.specialist.outcome import Outcome, failed
from titans_trm.specialist.protocol import ContextPackage, read_results
from titans_trm.specialist.redact import child_environment, scrub

INSTALL = "pip install titans-trm[agent]"
# What the agent's program needs to reach the service; nothing else of the environment is handed on.
CREDENTIALS = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
)
_STARTUP_SECONDS = 30.0  # for the child's imports, on top of the time limit that the child keeps itself
_START = "import sys; sys.path.append({root!r}); from titans_trm.specialist.claude_program import main; main()"


class ClaudeSpecialist:
    """Ask an agent. Without a workspace it sees the package and nothing else; with one it may read its files.

    Args:
        config: model, caps, permission mode.
        workspace: a git worktree; None = the agent has no file tools at all.
        write: let it write inside the workspace (only after a person approved its plan).
    """

    name = "claude"
    instant = False

    def __init__(self, config: SpecialistConfig, *, workspace: Path | None = None, write: bool = False) -> None:
        self.config = config
        self.workspace = workspace
        self.write = write and workspace is not None

    def consult(self, context: ContextPackage) -> Outcome:
        """Make one call; whatever happens, an outcome comes back."""
        missing = unavailable()
        if missing is not None:
            return failed("unavailable", missing)
        request = {
            "context": context.to_dict(),
            "config": asdict(self.config),
            "workspace": None if self.workspace is None else str(self.workspace),
            "write": self.write,
        }
        root = str(Path(__file__).resolve().parents[2])
        command = [sys.executable, "-c", _START.format(root=root)]
        with tempfile.TemporaryDirectory(prefix="specialist-") as folder:
            environment = child_environment(
                CREDENTIALS,
                HOME=folder,
                TMPDIR=folder,
                CLAUDE_CONFIG_DIR=os.path.join(folder, "config"),
                CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
                CLAUDE_CODE_MAX_RETRIES="1",
                CLAUDE_CODE_MAX_OUTPUT_TOKENS=str(self.config.max_output_tokens),
                API_TIMEOUT_MS=str(int(1000 * self.config.timeout_seconds)),
                PYTHONDONTWRITEBYTECODE="1",
            )
            try:
                ran = run_program(
                    command,
                    json.dumps(request),
                    environment=environment,
                    folder=Path(folder),
                    timeout=self.config.timeout_seconds + _STARTUP_SECONDS,
                )
            except OSError as error:
                return failed("unavailable", f"{sys.executable} cannot be started: {error.strerror}")
        return _outcome(ran)


def unavailable() -> str | None:
    """Return why no agent can be called here, or None."""
    if importlib.util.find_spec("claude_agent_sdk") is None:
        return f"specialist=claude needs the package claude-agent-sdk, which is not installed: {INSTALL}"
    return None


def require_agent() -> None:
    """Raise an `InputError` that says what to install, where the extra is absent."""
    missing = unavailable()
    if missing is not None:
        raise InputError(f"{missing}, or choose specialist=rules.")


def _outcome(ran: Ran) -> Outcome:
    details: dict[str, Any] = {"seconds": round(ran.seconds, 3)}
    if ran.status is None:
        return failed("timeout", "the agent's process gave no answer in time", **details)
    try:
        answer = json.loads(ran.stdout)
        ending, reason = answer["ending"], scrub(str(answer["reason"]))
        details |= answer["details"]
    except (ValueError, KeyError, TypeError):
        details["stderr"] = scrub(ran.stderr)[-500:]
        return failed("failed", f"the agent's process ended with status {ran.status}", **details)
    if ending != "answered":
        return failed(ending, reason, **details)
    try:
        return Outcome("answered", read_results(answer["results"], from_specialist=True), details)
    except InputError as error:
        return failed("malformed", str(error), **details)
