"""A server in a thread of this process, and the target that it serves.

A test runs in the main thread and blocks; the server has its event loop to itself beside it.
What a test wants of the target goes through the same worker as what GDB wants, one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import click
import trio

from gdbserver.cli import machine
from gdbserver.cli.options import MachineOptions, machine_options
from gdbserver.errors import UsageError
from gdbserver.flash.image import download, load_image
from gdbserver.flash.machine import Machine
from gdbserver.flash.plan import Download
from gdbserver.flash.programmer import Programmer, Step
from gdbserver.server.serve import serving
from gdbserver.server.start import Options
from gdbserver.server.worker import Workers, owning
from gdbserver.target.target import Target

P = ParamSpec("P")
T = TypeVar("T")


def open_machine(words: Sequence[str]) -> Machine:
    """The machine that options of the command line name: --probe, --connect, --extload, …

    Raises: GdbServerError.
    """
    try:
        options: MachineOptions = _options.main(list(words), standalone_mode=False)
    except click.ClickException as error:
        raise UsageError(error.format_message()) from None
    return machine.open_machine(options, machine.load_loaders(options))


@click.command()
@machine_options
def _options(options: MachineOptions) -> MachineOptions:
    return options


class Server:
    """Serves as long as its ``with`` block lasts, on a free port of this machine.

    Afterwards the core runs, without breakpoints, and the probe is free.

    Raises (on entering): GdbServerError when the machine cannot be opened.
    """

    host = "127.0.0.1"

    def __init__(self, open_machine: Callable[[], Machine], options: Options | None = None) -> None:
        self.port: int
        self._open_machine = open_machine
        self._options = replace(options or Options(), host=self.host, port=0, persistent=True)
        self._workers: Workers
        self._token: trio.lowlevel.TrioToken
        self._end: trio.Event
        self._settled = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._live, name="GDB server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._settled.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._token.run_sync_soon(self._end.set)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    @property
    def address(self) -> str:
        """As GDB's `target extended-remote` takes it."""
        return f"{self.host}:{self.port}"

    def call(
        self, method: Callable[Concatenate[Target, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``method(target, *args)`` as soon as the target has nothing else to do."""

        async def ask() -> T:
            return await self._workers.target.call(method, *args, **kwargs)

        return trio.from_thread.run(ask, trio_token=self._token)

    def program(self, wanted: Download) -> None:
        """Carry a download out, and verify it."""

        async def nothing(step: Step) -> None:
            pass

        async def carry_out() -> None:
            await self._workers.programmer.run_steps(Programmer.carry_out, nothing, wanted)

        trio.from_thread.run(carry_out, trio_token=self._token)

    def _live(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:  # raised again where somebody waits for it
            self._failure = error
        finally:
            self._settled.set()

    async def _serve(self) -> None:
        self._token, self._end = trio.lowlevel.current_trio_token(), trio.Event()
        async with (
            owning(self._open_machine) as self._workers,
            serving(self._workers, self._options) as self.port,
        ):
            self._settled.set()
            await self._end.wait()


class TargetProxy:
    """The target, for a test that does not need GDB for what it wants to know.

    Raises (from every method): GdbServerError.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def flash(self, *files: Path | str) -> None:
        """Program ELF, HEX, S-record files, or FILE@ADDRESS; then halt after a reset."""
        self._server.program(download([load_image(str(file)) for file in files]))
        self.reset(halt=True)

    def reset(self, *, halt: bool = False) -> None:
        self._server.call(Target.reset, halt=halt)

    def halt(self) -> None:
        self._server.call(Target.halt)

    def resume(self) -> None:
        self._server.call(Target.resume)

    def is_halted(self) -> bool:
        return self._server.call(Target.is_halted)

    def read_memory(self, address: int, length: int) -> bytes:
        return self._server.call(Target.read_memory, address, length)

    def write_memory(self, address: int, data: bytes) -> None:
        """RAM and peripherals; flash is programmed by `flash`."""
        self._server.call(Target.write_memory, address, data)

    def read_word(self, address: int) -> int:
        return self._server.call(Target.read_word, address)

    def write_word(self, address: int, value: int) -> None:
        self._server.call(Target.write_word, address, value)

    def read_registers(self, *names: str) -> Mapping[str, int]:
        """Of the halted core, by name: r0 to r12, sp, lr, pc, xpsr, …"""
        return self._server.call(Target.read_registers, names)

    def describe_fault(self) -> str | None:
        """The fault in which the core stands, in a sentence."""
        return self._server.call(Target.describe_fault)
