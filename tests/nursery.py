"""Processes that begin with their imports done: tests that kill dozens don't wait for torch each time.

A child is forked from a process that has loaded the modules and done nothing else, so that it is the real
program in a process (and session) of its own; only the seconds of its start are missing.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Nursery:
    """Forks children that call `module.function(*args)`."""

    def __init__(self, *modules: str) -> None:
        self._here, there = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nursery", str(there.fileno()), *modules],
            cwd=ROOT, pass_fds=[there.fileno()], start_new_session=True,
        )  # fmt: skip
        there.close()
        self._answers = self._here.makefile("rb")
        assert self._answers.readline() == b"ready\n"

    def fork(
        self, call: str, args: Sequence[str], *, output: int | None = None, keep: int | None = None
    ) -> Child:
        """A child that does `call` ("module:function"), with `output` as its output; it holds `keep` open."""
        fds = [fd for fd in (output, keep) if fd is not None]
        asked = {"call": call, "args": args, "output": output is not None, "fds": len(fds)}
        return Child(self, self._ask(asked, fds))

    def jobs(self, call: str = "debias_core.jobs.worker:main") -> Any:
        """What the runner takes for `subprocess`: a job's process is forked, and does `call`."""

        def popen(
            command: Sequence[str], *, stdout: Any, pass_fds: Sequence[int], **_: Any
        ) -> Child:
            assert command[1:3] == ["-m", "debias_core.jobs.worker"]
            (lock,) = pass_fds
            return self.fork(call, command[3:], output=stdout.fileno(), keep=lock)

        return SimpleNamespace(DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT, Popen=popen)

    def _ask(self, asked: dict[str, Any], fds: list[int] | None = None) -> Any:
        message = json.dumps(asked).encode() + b"\n"
        if fds:
            socket.send_fds(self._here, [message], fds)
        else:
            self._here.sendall(message)
        return json.loads(self._answers.readline())

    def close(self) -> None:
        """End the nursery; its children live on."""
        self._here.close()
        self._answers.close()
        self._process.wait()


class Child:
    """What `subprocess.Popen` tells of a child."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid, self._nursery, self._code = pid, nursery, None

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._nursery._ask({"poll": self.pid})
        return self._code

    def wait(self) -> int:
        while self._code is None:
            self._code = self._nursery._ask({"wait": self.pid})
        return self._code

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _child(asked: dict[str, Any], fds: list[int]) -> None:
    """The forked process, from its first moment to its last."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    output = fds[0] if asked["output"] else nothing
    for ours, theirs in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(ours, theirs)
    module, _, function = asked["call"].partition(":")
    code = 1
    try:
        code = getattr(importlib.import_module(module), function)(*asked["args"]) or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def _serve(connection: socket.socket, modules: list[str]) -> None:
    for name in modules:
        importlib.import_module(name)
    connection.sendall(b"ready\n")
    while True:
        message, fds, *_ = socket.recv_fds(connection, 1 << 16, 2)
        if not message:
            return
        asked = json.loads(message)
        if "call" in asked:
            if (pid := os.fork()) == 0:
                connection.close()
                _child(asked, fds)
            for fd in fds:
                os.close(fd)
            answer: int | None = pid
        else:
            pid, how = asked.get("poll") or asked["wait"], os.WNOHANG if "poll" in asked else 0
            done, status = os.waitpid(pid, how)
            answer = os.waitstatus_to_exitcode(status) if done else None
        connection.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
