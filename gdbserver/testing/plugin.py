"""pytest's fixtures for tests on a target: ``pytest --stm32-probe UID``, or ``sim``.

`stm32_server` is a server for the whole run; `stm32_target` the chip behind it; `stm32_gdb` a
GDB that is connected to it, fresh for each test.  A test that asks for one of them is skipped
when no probe is given, so firmware and host tests can stand in one folder.

Every pytest run of an environment loads this module, so it imports nothing before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gdbserver.errors import GdbServerError, explain

if TYPE_CHECKING:
    from gdbserver.testing.gdb import Gdb
    from gdbserver.testing.server import Server, TargetProxy


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("stm32", "tests on an STM32H743")
    for name, metavar, text in (
        ("--stm32-probe", "UID", "the debug probe, by pyOCD unique id; `sim` is a simulated board"),
        ("--stm32-gdb", "PROGRAM", "the GDB; by default arm-none-eabi-gdb or gdb-multiarch"),
        ("--stm32-connect", "HOW", "under-reset (default), halt or attach"),
        ("--stm32-frequency", "HZ", "SWD clock: 4M; by default the probe's"),
        ("--stm32-qspi-pins", "PINS", "where the NOR is connected: CLK=PB2,NCS=PB6,..."),
        ("--stm32-board", "NAME|FILE", "the same for a known board, or from a TOML file"),
    ):
        group.addoption(name, metavar=metavar, help=text)
    group.addoption(
        "--stm32-extload",
        metavar="FILE|builtin",
        action="append",
        default=[],
        help="external loader for flash on the QSPI; repeatable",
    )


@pytest.fixture(scope="session")
def stm32_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server on the board, for the whole run: `host`, `port`, `address`."""
    options = request.config.option
    if options.stm32_probe is None:
        pytest.skip("needs a target: give --stm32-probe UID, or --stm32-probe sim")
    from gdbserver.testing.server import Server, open_machine  # noqa: PLC0415

    with ExitStack() as stack:
        with _explained():
            server = stack.enter_context(Server(lambda: open_machine(_chosen(options))))
        yield server


@pytest.fixture
def stm32_target(stm32_server: Server) -> TargetProxy:
    """The chip itself: flash, reset, memory, registers."""
    from gdbserver.testing.server import TargetProxy  # noqa: PLC0415

    return TargetProxy(stm32_server)


@pytest.fixture
def stm32_gdb(stm32_server: Server, request: pytest.FixtureRequest) -> Iterator[Gdb]:
    """A GDB that is connected; the core stands.  Afterwards it runs, without breakpoints."""
    from gdbserver.testing.gdb import Gdb  # noqa: PLC0415

    with ExitStack() as stack:
        with _explained():
            gdb = stack.enter_context(Gdb(request.config.option.stm32_gdb))
            gdb.connect(stm32_server.address)
        yield gdb


def _chosen(options: Any) -> list[str]:
    """The command line of `stm32-gdbserver` that means the same."""
    words = []
    for name in ("probe", "connect", "frequency", "qspi_pins", "board"):
        if (value := getattr(options, f"stm32_{name}")) is not None:
            words += [f"--{name.replace('_', '-')}", value]
    for loader in options.stm32_extload:
        words += ["--extload", loader]
    return words


@contextmanager
def _explained() -> Iterator[None]:
    """What cannot be had ends the test with the whole story, and without a traceback."""
    try:
        yield
    except GdbServerError as error:
        pytest.fail("\n".join(explain(error)), pytrace=False)
