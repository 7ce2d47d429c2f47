"""Finding debug probes, and telling what goes wrong with them.

pyOCD does the finding: its own drivers, and whatever plugins are installed.  A unique id may be
any that ``pyocd list`` shows, or a part of one, or name the kind of probe first.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pyocd.core import exceptions
from pyocd.core.helpers import ConnectHelper

from gdbserver.errors import NoSuchProbe, ProbeError

JLINK_FAULTS: Final = ("JLinkReadException", "JLinkWriteException")
"""What pylink raises when the chip refuses a memory access; pyOCD lets it through."""


def is_simulated(uid: str) -> bool:
    return uid == "sim" or uid.startswith("sim:")


def find_probe(uid: str | None) -> Any:
    """The probe that `uid` names, or the one that is connected.

    Raises:
        ProbeError: none, or more than one; the hint names what could be meant.
    """
    if uid is not None and is_simulated(uid) and importlib.util.find_spec("unicorn") is None:
        raise ProbeError("the simulated board needs Unicorn", hint="pip install unicorn")
    what, hint = "cannot look for debug probes", "is libusb installed?"
    if uid is not None and is_simulated(uid):
        what, hint = "the simulated board cannot be made", "the README lists what may follow sim:"
    with driver_errors(what, hint=hint), _what_pyocd_says() as said:
        probes = ConnectHelper.get_all_connected_probes(blocking=False, unique_id=uid)
        if uid is None:
            probes = _real(probes)
        candidates = probes or _real(ConnectHelper.get_all_connected_probes(blocking=False))
    names = ", ".join(f"{probe.unique_id} ({probe.description})" for probe in candidates)
    if len(probes) == 1:
        return probes[0]
    if probes:
        fits = f"{uid!r} fits several debug probes" if uid else "several debug probes are connected"
        raise ProbeError(fits, hint=f"choose one with --probe: {names}")
    hint = "--probe sim is a simulated board"
    if uid is None:
        missing = ProbeError("no debug probe is connected", hint=hint)
    else:
        hint = f"connected: {names}; {hint}" if names else f"none is connected; {hint}"
        missing = NoSuchProbe(f"there is no debug probe {uid!r}", hint=hint)
    missing.details = tuple(said)
    raise missing


def connected_probes() -> list[tuple[str, str]]:
    """Unique id and description of each probe that is plugged in.

    Raises:
        ProbeError: one cannot look.
    """
    quiet()
    with driver_errors("cannot look for debug probes", hint="is libusb installed?"):
        probes = _real(ConnectHelper.get_all_connected_probes(blocking=False))
    return [(probe.unique_id, probe.description) for probe in probes]


def _real(probes: list[Any]) -> list[Any]:
    return [probe for probe in probes if not is_simulated(probe.unique_id)]


def is_drivers(error: Exception) -> bool:
    """Whether `error` is one that pyOCD or a driver below it raises when hardware fails.

    USB errors are OSErrors, and pyOCD lets pylink's through.
    """
    module = type(error).__module__
    return isinstance(error, (exceptions.Error, OSError)) or module.startswith("pylink.")


@contextmanager
def driver_errors(sentence: str, *, hint: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_drivers(error):
            raise
        raise ProbeError(sentence, hint=hint) from error


@contextmanager
def _what_pyocd_says() -> Iterator[list[str]]:
    """Its warnings meanwhile: of a probe that this user may not open it says so there only."""
    quiet()
    pyocd = logging.getLogger("pyocd")
    said: list[str] = []
    listener = _Listener(said)
    level, propagate = pyocd.level, pyocd.propagate
    pyocd.propagate = level < logging.CRITICAL  # at CRITICAL nobody wants to see them twice
    pyocd.setLevel(min(level, logging.WARNING))
    pyocd.addHandler(listener)
    try:
        yield said
    finally:
        pyocd.removeHandler(listener)
        pyocd.setLevel(level)
        pyocd.propagate = propagate


class _Listener(logging.Handler):
    """Keeps warnings, each once."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() not in self._said:
            self._said.append(record.getMessage())


def quiet() -> None:
    """Let pyOCD's own log through only where somebody asked for it: errors become ours."""
    pyocd = logging.getLogger("pyocd")
    if pyocd.level == logging.NOTSET:
        pyocd.setLevel(logging.CRITICAL)
