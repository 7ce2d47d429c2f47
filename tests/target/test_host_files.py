"""The folder that a program may use: what is in it, and nothing else."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gdbserver.chip.stm32h743 import AXI_SRAM
from gdbserver.errors import MemoryFault
from gdbserver.target.host_files import Bytes, Done, Folder, HostFile, Work, advance
from gdbserver.target.target import Target


def at_once(work: Work[HostFile]) -> HostFile:
    """The result of a work for which nobody is asked."""
    done = advance(work)
    assert isinstance(done, Done)
    result: HostFile = done.result
    return result


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything in it that could lead out of it."""
    world = tmp_path_factory.mktemp("world")
    inside = world / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / "file").write_text("inside")
    (world / "secret").write_text("secret")
    (inside / "link").symlink_to(world / "secret")
    (inside / "dangling").symlink_to(world / "not-there-yet")
    (inside / "up").symlink_to(world)
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "within").symlink_to("file")
    (inside / "sub" / "back").symlink_to("..")
    os.mkfifo(inside / "pipe")
    return world


@pytest.mark.parametrize(
    "name",
    [
        *("../secret", "sub/../../secret", "sub/../file", "..", ".", "", "/etc/passwd", "//etc"),
        *("link", "dangling", "up/secret", "up/inside/../secret", "sub/back/../secret", "loop"),
        *("pipe", "sub", "file\0", ":tt2", "file/more", "x" * 300, "\udcff/../../secret"),
    ],
)
@pytest.mark.parametrize("mode", [0, 4, 6, 8])
def test_a_name_that_leads_elsewhere_is_refused(world: Path, name: str, mode: int) -> None:
    folder = Folder(world / "inside")
    with pytest.raises(OSError, match=r".+"):
        at_once(folder.open(os.fsencode(name), 0, mode))
    assert (world / "secret").read_text() == "secret"
    assert not (world / "not-there-yet").exists()


def test_a_link_that_stays_inside_is_followed(world: Path) -> None:
    file = at_once(Folder(world / "inside").open(b"sub/back/within", 0, 0))
    assert isinstance(file, Bytes)
    assert at_once(file.length()) == len("inside")  # type: ignore[arg-type]
    file.drop()


def test_removing_a_link_removes_the_link(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "kept")
    advance(Folder(tmp_path / "inside").remove(b"link", 0))
    assert (tmp_path / "kept").exists()
    assert not (tmp_path / "inside" / "link").is_symlink()


def test_what_lies_outside_is_neither_removed_nor_renamed(world: Path) -> None:
    folder = Folder(world / "inside")
    for name in (b"up/secret", b"../secret", b"sub"):
        with pytest.raises(OSError, match=r".+"):
            advance(folder.remove(name, 0))
        with pytest.raises(OSError, match=r".+"):
            advance(folder.rename(name, 0, b"mine", 0))
        with pytest.raises(OSError, match=r".+"):
            advance(folder.rename(b"file", 0, name, 0))
    assert (world / "secret").exists()


PARTS = st.sampled_from(
    ["..", ".", "", "file", "sub", "up", "link", "back", "within", "inside", "secret", "~", "\0"]
)


@settings(max_examples=300)
@given(st.lists(PARTS, max_size=6).map("/".join) | st.text(max_size=20))
def test_no_name_whatever_leads_out(world: Path, name: str) -> None:
    inside = world / "inside"
    try:
        place = Folder(inside).place(name.encode(errors="surrogatepass"))
    except OSError:
        return
    real = Path(os.path.realpath(place))
    assert real.is_relative_to(inside)
    assert real != inside


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target.open("sim:ideal")
    target.write_memory(AXI_SRAM.end - 100, bytes(range(100)))
    yield target
    target.close()


def test_what_a_program_writes_from_where_memory_ends_is_written_up_to_there(
    target: Target, tmp_path: Path
) -> None:
    with io.FileIO(tmp_path / "out", "w") as out:
        written = advance(Bytes(out).write(target, AXI_SRAM.end - 100, 300))
    assert written == Done(100)
    assert (tmp_path / "out").read_bytes() == bytes(range(100))


def test_what_a_program_writes_from_no_memory_at_all_is_refused(
    target: Target, tmp_path: Path
) -> None:
    with io.FileIO(tmp_path / "out", "w") as out, pytest.raises(MemoryFault):
        advance(Bytes(out).write(target, AXI_SRAM.end, 300))
    assert (tmp_path / "out").read_bytes() == b""
