"""A stand-in for the messages API on the loopback interface: scripted answers for the real agent program."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = list[dict[str, Any]] | tuple[int, str]  # content blocks, or status and kind of an error
Respond = Callable[[dict[str, Any]], Answer]


class MessagesAPI:
    """What the program asked (`bodies`), and what it is told (`respond`)."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.bodies: list[dict[str, Any]] = []
        self.delay = 0.0  # seconds before an answer
        self.input_tokens = 100  # reported usage
        self.url = ""

    def text(self) -> str:
        return json.dumps(self.bodies)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:12]}", "name": name, "input": arguments}


def tool_results(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of tools so far: the step of a scripted dialogue is their number."""
    found = []
    for message in body["messages"]:
        if isinstance(message["content"], list):
            found += [block for block in message["content"] if block.get("type") == "tool_result"]
    return found


@contextmanager
def messages_api(respond: Respond) -> Iterator[MessagesAPI]:
    api = MessagesAPI(respond)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._send(200, b"", "text/plain")

        def do_GET(self) -> None:
            self._send(404, b'{"type": "error", "error": {"type": "not_found_error", "message": ""}}')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
            if "count_tokens" in self.path:
                self._send(200, b'{"input_tokens": 100}')
            elif self.path.startswith("/v1/messages"):
                api.bodies.append(body)
                time.sleep(api.delay)
                self._answer(body)
            else:
                self.do_GET()

        def _answer(self, body: dict[str, Any]) -> None:
            answer = api.respond(body)
            if isinstance(answer, tuple):
                error = {"type": "error", "error": {"type": answer[1], "message": "scripted"}}
                self._send(answer[0], json.dumps(error).encode())
                return
            message = {
                "id": f"msg_{uuid.uuid4().hex}",
                "type": "message",
                "role": "assistant",
                "model": body["model"],
                "content": answer,
                "stop_reason": "tool_use" if any(b["type"] == "tool_use" for b in answer) else "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": api.input_tokens, "output_tokens": 10},
            }
            if body.get("stream"):
                self._send(200, b"".join(_events(message)), "text/event-stream")
            else:
                self._send(200, json.dumps(message).encode())

        def _send(self, status: int, data: bytes, kind: str = "application/json") -> None:
            try:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the program left

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _events(message: dict[str, Any]) -> Iterator[bytes]:
    def event(kind: str, **values: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **values})}\n\n".encode()

    yield event("message_start", message={**message, "content": [], "stop_reason": None})
    for index, block in enumerate(message["content"]):
        if block["type"] == "text":
            yield event("content_block_start", index=index, content_block={"type": "text", "text": ""})
            yield event("content_block_delta", index=index, delta={"type": "text_delta", "text": block["text"]})
        else:
            yield event("content_block_start", index=index, content_block={**block, "input": {}})
            partial = json.dumps(block["input"])
            delta = {"type": "input_json_delta", "partial_json": partial}
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=stop, usage={"output_tokens": 10})
    yield event("message_stop")
