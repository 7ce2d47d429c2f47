"""`monitor coredump`: what a client may ask for, and that it can be interrupted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from dialogue import Client, connected, lent, open_machine
from elftools.elf.elffile import ELFFile

from gdbserver.chip.memory import Span
from gdbserver.chip.stm32h743 import AXI_SRAM

pytestmark = pytest.mark.timeout(60)

VECTORS, SERIAL = Span.of(0x08000000, 0x40), Span.of(0x1FF1E880, 4)


def in_session(elf: Path, story: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with lent(open_machine(elf=elf)) as workers, connected(workers) as client:
            await client.ask(b"?")
            await story(client)

    trio.run(main)


async def ask(client: Client, arguments: str) -> None:
    await client.send(b"qRcmd," + f"coredump {arguments}".encode().hex().encode())


async def heard(client: Client) -> tuple[str, bytes]:
    said = ""
    while (reply := await client.hear() or b"").startswith(b"O") and reply != b"OK":
        said += bytes.fromhex(reply[1:].decode()).decode()
    return said, reply


def spans(core: Path) -> set[Span]:
    with core.open("rb") as stream:
        return {
            Span.of(segment["p_vaddr"], segment["p_filesz"])
            for segment in ELFFile(stream).iter_segments("PT_LOAD")
        }


def test_a_client_asks_for_one_with_more_in_it(drills_elf: Path, tmp_path: Path) -> None:
    core = tmp_path / "of the board.core"

    async def story(client: Client) -> None:
        await ask(client, f"{core}")
        said, reply = await heard(client)
        assert (said.startswith(f"{core}: "), reply) == (True, b"OK")
        assert AXI_SRAM in spans(core)
        assert not {VECTORS, SERIAL} & spans(core)
        await ask(client, f"{core} --also 0x08000000-0x0800003f --also 0x1FF1E880+4")
        assert (await heard(client))[1] == b"OK"
        assert {AXI_SRAM, VECTORS, SERIAL} <= spans(core)
        await ask(client, f"{core}2 --also 0x08000000+64 0x1FF1E880+4")
        assert (await heard(client))[1] == b"OK"
        assert {VECTORS, SERIAL} <= spans(Path(f"{core}2"))

    in_session(drills_elf, story)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "needs the name of a file"),
        ("--also 0x0+4", "needs the name of a file"),
        ("board.core --also", "--also wants START+LENGTH or START-LAST: '' is no address"),
        ("board.core --also GPIOA", "'GPIOA' is no address"),
        ("board.core --also 0x58020000+", "'' is no length"),
        ("board.core --also 8-4", "8-4 ends before it begins"),
        ("board.core --also 0xfffffffc+5", "0xfffffffc+5 ends where there are no addresses"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    drills_elf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    async def story(client: Client) -> None:
        await ask(client, arguments)
        said, reply = await heard(client)
        assert sentence in said
        assert reply.startswith(b"E")

    in_session(drills_elf, story)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_no_file_and_no_running_core(drills_elf: Path, tmp_path: Path) -> None:
    core = tmp_path / "board.core"

    async def story(client: Client) -> None:
        await ask(client, f"{core}")
        await client.interrupt()
        said, reply = await heard(client)
        assert "interrupted; no file was written" in said
        assert reply.startswith(b"E")
        assert (await client.ask(b"?") or b"").startswith(b"T")

    in_session(drills_elf, story)
    assert not list(tmp_path.iterdir())
