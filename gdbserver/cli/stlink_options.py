"""The options of ST-LINK_gdbserver, and how they are read.

Names and defaults are those that its ``--help`` shows.  Its parser knows no bundles (``-el`` is
one option) and no abbreviations, and what it says about a wrong one is looked for by IDEs; so
the command line is read here, and not by click.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gdbserver.errors import UsageError


class ParseError(UsageError):
    """An argument that cannot be, in the words of ST-LINK_gdbserver."""

    exit_status = 1

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"PARSE ERROR: Argument: {argument}\n             {problem}")


@dataclass(frozen=True, slots=True)
class Option:
    """One of its options.  `takes` is None for a flag; `ignored` is why it changes nothing."""

    short: str
    long: str
    help: str
    takes: str | None = None
    number: bool = False
    ignored: str | None = None

    def __str__(self) -> str:
        """As its error messages name it."""
        return f"-{self.short} (--{self.long})" if self.short else f"--{self.long}"


_NO_OTHER_TOOL = "no other tool is started, and nothing goes through files"

# fmt: off
OPTIONS = (
    Option("c", "config-file", "Read options from a file, one a line", "file"),
    Option("e", "persistent", "Stay when GDB has disconnected"),
    Option("f", "log-file", "Write the log to a file as well", "file"),
    Option("l", "log-level", "0 to 31, as bits: 1 errors, 31 all that is said", "level", True),
    Option("p", "port-number", "TCP port; 61234 by default", "port", True),
    Option("v", "verbose", "Say more"),
    Option("r", "refresh-delay", "Seconds between two looks at the core", "seconds", True,
           ignored="the core is looked at all the time"),
    Option("s", "verify", "Verify what was programmed",
           ignored="every byte is verified anyway"),
    Option("d", "swd", "Use SWD", ignored="SWD is used anyway"),
    Option("z", "swo-port", "TCP port for SWO", "port", True),
    Option("a", "cpu-clock", "The trace clock, in Hz; without it there is no SWO", "hertz", True),
    Option("b", "swo-clock-div", "What divides it for SWO; 128 by default", "divider", True),
    Option("k", "initialize-reset", "Connect under reset"),
    Option("q", "debuggers", "List the debug probes, and exit"),
    Option("i", "serial-number", "The debug probe: its serial number, or any pyOCD unique id",
           "serial"),
    Option("m", "apid", "Access port of the core", "number", True,
           ignored="the core of this chip is behind access port 0"),
    Option("g", "attach", "Attach to the running program, without a reset"),
    Option("t", "shared", "Share the probe through ST-LINK server",
           ignored="the probe is not shared; but several clients may connect to this server"),
    Option("el", "extload", "External loader; may be given more than once", "file"),
    Option("ei", "extload_init", "External loader whose Init is run after a reset, too", "file"),
    Option("cp", "stm32cubeprogrammer-path", "Where STM32CubeProgrammer is", "folder"),
    Option("", "external-init", "Run Init of the external loaders after a reset"),
    Option("", "halt", "Halt the core during a reset", ignored="that is done anyway"),
    Option("", "pend-halt-timeout", "How long to wait for that, in ms", "ms", True,
           ignored="a core that does not halt is reported"),
    Option("", "erase-all", "Erase the whole of each device that is programmed"),
    Option("", "incremental", "Program what has changed only", ignored="that is done anyway"),
    Option("", "frequency", "SWD clock, in kHz; -1 for the fastest", "kHz", True),
    Option("", "memory-map", "Show the memory map of a chip, and exit", "device"),
    Option("", "ext-memory-loaders", "List external loaders, and exit"),
    Option("", "semihosting", "Semihosting", "mode",
           ignored="semihosting is served anyway; `monitor semihosting off` ends that"),
    Option("", "semihost-console-port", "TCP port for semihosting", "port", True,
           ignored="what the program prints goes to GDB's console"),
    Option("", "temp-path", "Folder for temporary files", "folder", ignored=_NO_OTHER_TOOL),
    Option("", "preserve-temps", "Keep temporary files", ignored=_NO_OTHER_TOOL),
    Option("h", "help", "This list"),
    Option("", "version", "Which version this is"),
    Option("", "licenses", "Licences"),
)
# fmt: on

_BY_FLAG = {f"-{option.short}": option for option in OPTIONS if option.short} | {
    f"--{option.long}": option for option in OPTIONS
}


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a command line says: the values of each option that was given, by long name."""

    given: dict[str, list[str]] = field(default_factory=dict)

    def __contains__(self, long: str) -> bool:
        return long in self.given

    def all(self, long: str) -> list[str]:
        return self.given.get(long, [])

    def text(self, long: str) -> str | None:
        return self.all(long)[-1] if long in self.given else None

    def number(self, long: str, default: int) -> int:
        text = self.text(long)
        return default if text is None else int(text)

    def ignored(self) -> Iterator[tuple[Option, str]]:
        """Options that change nothing, and why."""
        for option in OPTIONS:
            if option.ignored and option.long in self.given:
                yield option, option.ignored


def parse(words: Sequence[str]) -> Arguments:
    """Read a command line; a config file's options count as if they stood in front.

    Raises:
        ParseError: with the wording of ST-LINK_gdbserver.
        UsageError: a config file cannot be read.
    """
    arguments = _parse(words)
    lines = [line for file in arguments.all("config-file") for line in _config(Path(file))]
    if lines:
        first = _parse(lines)
        both = {long: first.all(long) + arguments.all(long) for long in first.given}
        return Arguments(arguments.given | both)
    return arguments


def _parse(words: Sequence[str]) -> Arguments:
    given: dict[str, list[str]] = {}
    remaining = iter(words)
    for word in remaining:
        if word == "--":
            break
        flag, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        option = _BY_FLAG.get(flag)
        if option is None:
            raise ParseError(word, "Couldn't find match for argument")
        values = given.setdefault(option.long, [])
        if option.takes is None:
            continue
        if not equals:
            found = next(remaining, None)
            if found is None:
                raise ParseError(str(option), "Missing a value for this argument!")
            value = found
        if option.number:
            _check_number(option, value)
        values.append(value)
    return Arguments(given)


def _check_number(option: Option, value: str) -> None:
    try:
        number = int(value)
    except ValueError:
        number = None
    if number is None or (option.takes == "port" and not 0 <= number <= 0xFFFF):
        raise ParseError(str(option), f"Couldn't read argument value from string '{value}'")


def _config(path: Path) -> list[str]:
    """The words of a config file: an option a line, with its value behind it."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the config file {path}", hint="-c takes a text file with an option a line"
        ) from error
    words = []
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        flag, _, value = text.partition(" ")
        words.append(flag)
        if value.strip():
            words.append(value.strip().strip('"'))  # a path may have spaces
    return words
