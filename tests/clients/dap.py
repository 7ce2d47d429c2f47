"""A debug adapter on a pipe, and the little of the Debug Adapter Protocol that an IDE speaks to it.

Messages are JSON behind a ``Content-Length`` header.  Requests are answered in any order, and
events come in between.  "Debug Adapter Protocol", Overview.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

PATIENCE = 90  # host seconds for anything


class RequestFailed(Exception):
    """The adapter says no."""


class Adapter:
    """One adapter process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | dict(environment),
        )
        self.output = ""
        """All that it has shown to the user."""
        self._numbers = itertools.count(1)
        self._heard: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._answers: dict[int, dict[str, Any]] = {}
        self._events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    def request(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Ask, and wait for the answer.

        Raises: RequestFailed.
        """
        return self.answer(self.begin(command, **arguments))

    def begin(self, command: str, **arguments: Any) -> int:
        """Ask, and do not wait."""
        number = next(self._numbers)
        message = {"seq": number, "type": "request", "command": command, "arguments": arguments}
        body = json.dumps(message).encode()
        assert self.process.stdin is not None
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self.process.stdin.flush()
        return number

    def answer(self, number: int) -> dict[str, Any]:
        """Raises: RequestFailed."""
        while number not in self._answers:
            self._hear(f"the answer to request {number}")
        answer = self._answers.pop(number)
        if not answer["success"]:
            raise RequestFailed(f"{answer['command']}: {answer.get('message')}\n{self.output}")
        body: dict[str, Any] = answer.get("body") or {}
        return body

    def event(self, kind: str) -> dict[str, Any]:
        """The next event of this kind; those before it are forgotten."""
        while True:
            while self._events:
                event = self._events.pop(0)
                if event["event"] == kind:
                    body: dict[str, Any] = event.get("body") or {}
                    return body
            self._hear(f"an event {kind!r}")

    def _hear(self, wanted: str) -> None:
        try:
            message = self._heard.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"{wanted} has not come; output:\n{self.output}") from None
        assert message is not None, f"the adapter ended before {wanted}; output:\n{self.output}"
        if message["type"] == "response":
            self._answers[message["request_seq"]] = message
        elif message["event"] == "output":
            self.output += message["body"]["output"]
        else:
            self._events.append(message)

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        while header := stream.readline():
            name, _, value = header.partition(b":")
            if name == b"Content-Length":
                stream.readline()
                self._heard.put(json.loads(stream.read(int(value))))
        self._heard.put(None)
