"""The threads of `tests/firmware/tasks.c`, which keeps them as FreeRTOS does."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import support
from target_bench import Bench, make_bench

from gdbserver.errors import TargetError
from gdbserver.target.registers import REGISTERS
from gdbserver.target.rtos import Rtos, Survey

NAMES = [register.name for register in REGISTERS]
TCB_SIZE = 68  # of `struct tcb`
NAME_OFFSET = 52
LIST_NEXT_OFFSET = 16  # of a list's end: the item before it, which is the first to be looked at


@pytest.fixture(scope="module")
def tasks_elf() -> Path:
    return support.build_firmware("tasks")


@pytest.fixture
def bench(tasks_elf: Path) -> Iterator[Bench]:
    yield from make_bench("sim:stlink-v3", tasks_elf)


def introduced(bench: Bench) -> Rtos:
    """As by a client that knows the program's symbols."""
    rtos = Rtos()
    while (wanted := rtos.wanted(bench.target)) is not None:
        rtos.learn(wanted, bench.names.get(wanted))
    return rtos


def in_task(bench: Bench, function: str, times: int = 1) -> Survey:
    for _ in range(times):
        bench.run_to(function)
        survey = introduced(bench).survey(bench.target)
        bench.target.step()
    assert survey is not None
    return survey


def key(bench: Bench, number: int) -> int:
    return bench.names["tcbs"] + number * TCB_SIZE


def test_threads_are_found_by_their_control_blocks(bench: Bench) -> None:
    survey = in_task(bench, "blink", times=2)
    assert survey.current == key(bench, 1)
    found = {thread.key: (thread.name, thread.state) for thread in survey.threads()}
    assert found == {
        key(bench, 0): ("idle", "Ready; Priority 0"),
        key(bench, 1): ("blinker", "Running; Priority 2"),
        key(bench, 2): ("maths", "Ready; Priority 1"),
        key(bench, 3): ("rester", "Suspended; Priority 3"),
    }


def test_a_task_that_waits_without_a_time_out_is_blocked(bench: Bench) -> None:
    bench.run_to("blink")
    event_item = key(bench, 3) + 24
    # FreeRTOS, `eTaskGetState`: among the suspended tasks, and in the list of an event.
    bench.target.write_word(event_item + 16, bench.names["xPendingReadyList"])
    survey = introduced(bench).survey(bench.target)
    assert survey is not None
    assert "Blocked; Priority 3" in {thread.state for thread in survey.threads()}


def test_saved_registers_are_shown_and_none_is_made_up(bench: Bench) -> None:
    survey = in_task(bench, "blink", times=3)
    maths = survey.registers(key(bench, 2), NAMES)
    assert set(NAMES) - set(maths) == {"control"}
    assert maths["r8"] == 0x88888888
    assert maths["d10"] & 0xFFFFFFFF == 0x3FC00000  # s20: 1.5
    rester = survey.registers(key(bench, 3), NAMES)
    assert set(NAMES) - set(rester) == {"control", "fpscr", *(f"d{n}" for n in range(16))}
    assert rester["sp"] == rester["psp"]
    assert rester["msp"] == bench.target.read_registers(["msp"])["msp"]
    assert rester["xpsr"] & 1 << 24


def test_a_kernel_that_has_not_started_has_no_threads(bench: Bench) -> None:
    rtos = introduced(bench)
    assert rtos.survey(bench.target) is None
    bench.run_to("main")
    assert rtos.survey(bench.target) is None
    bench.run_to("blink")
    assert rtos.survey(bench.target) is not None
    # RAM is as it was, and the core stands at its first instruction.
    bench.target.reset(halt=True)
    assert rtos.survey(bench.target) is None


def test_a_survey_is_good_for_one_halt(bench: Bench) -> None:
    bench.run_to("blink")
    rtos = introduced(bench)
    first = rtos.survey(bench.target)
    assert rtos.survey(bench.target) is first
    bench.run_to("delay")
    assert rtos.survey(bench.target) is not first


def test_a_program_without_a_kernel_is_asked_for_seven_symbols(bench: Bench) -> None:
    rtos = Rtos()
    asked = []
    while (wanted := rtos.wanted(bench.target)) is not None:
        asked.append(wanted)
        rtos.learn(wanted, None)
    assert len(asked) == 7
    assert rtos.survey(bench.target) is None


@pytest.mark.parametrize("spoiled", [0xFFFFFFFF, 0x20000001, 0x70000000, 0x52002000, 0])
def test_lists_that_lead_nowhere_are_no_lists(
    bench: Bench, spoiled: int, caplog: pytest.LogCaptureFixture
) -> None:
    bench.run_to("blink")
    rtos = introduced(bench)
    ready = bench.names["pxReadyTasksLists"] + 2 * 20
    bench.target.write_word(ready + LIST_NEXT_OFFSET, spoiled)
    survey = rtos.survey(bench.target)
    assert survey is not None
    assert survey.threads() == []
    assert "do not hold together" in caplog.text


def test_a_list_that_goes_round_in_circles_comes_to_an_end(bench: Bench) -> None:
    bench.run_to("blink")
    rtos = introduced(bench)
    ready = bench.names["pxReadyTasksLists"]
    idle_item = key(bench, 0) + 4
    bench.target.write_word(ready, 0x7FFFFFFF)  # so many tasks are ready,
    bench.target.write_word(idle_item + 8, idle_item + 20)  # and each is before the other
    bench.target.write_word(idle_item + 20 + 8, idle_item)
    bench.target.write_word(bench.names["uxCurrentNumberOfTasks"], 0x7FFFFFFF)
    survey = rtos.survey(bench.target)
    assert survey is not None
    before = bench.cost()
    assert survey.threads() == []
    assert bench.cost() - before < 50


def test_a_name_that_has_been_overwritten_is_harmless(bench: Bench) -> None:
    bench.run_to("blink")
    rtos = introduced(bench)
    bench.target.write_memory(key(bench, 0) + NAME_OFFSET, b"\x1b[2J\n\xff<&\0")
    survey = rtos.survey(bench.target)
    assert survey is not None
    assert "?[2J??<&" in {thread.name for thread in survey.threads()}


def test_a_stack_that_cannot_be_read_is_told(bench: Bench) -> None:
    bench.run_to("blink")
    rtos = introduced(bench)
    bench.target.write_word(key(bench, 0), 0x70000000)
    survey = rtos.survey(bench.target)
    assert survey is not None
    for _ in range(3000):  # a client may ask as often as it likes
        survey.registers(key(bench, 3), ["pc"])
    with pytest.raises(TargetError, match=r"^the stack of thread 'idle' cannot be read$"):
        survey.registers(key(bench, 0), NAMES)


def test_what_threads_cost_on_the_link(bench: Bench) -> None:
    bench.run_to("blink")
    rtos = introduced(bench)
    bench.target.read_registers(("sp", "pc", "xpsr"))
    before = bench.cost()
    survey = rtos.survey(bench.target)
    assert survey is not None
    assert bench.cost() - before <= 14  # which one runs
    survey.threads()
    assert bench.cost() - before <= 16  # all of them
    survey.registers(key(bench, 3), NAMES)
    assert bench.cost() - before <= 24


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


# --- Other kernels, by what each has in RAM; none of them is here -------------------------------

RAM, HERE, OTHER, STACK, TEXT = 0x24000000, 0x24002000, 0x24003000, 0x24004000, 0x24005000

# What a switch has saved of a thread that uses the FPU, lowest address first: r4 to r11 are 4 to
# 11, s16 to s31 1.5 times their number; and behind it the frame that the exception has saved.
CALLEE_SAVED = words(*range(4, 12))
CALLEE_SAVED_FPU = b"".join(struct.pack("<f", 1.5 * n) for n in range(16, 32))
FRAME = words(100, 101, 102, 103, 112, 0x08000201, 0x08000301, 1 << 24)
FRAME_FPU = b"".join(struct.pack("<f", 1.5 * n) for n in range(16)) + words(0x03000000, 0)


def put(bench: Bench, address: int, fields: Mapping[int, int | bytes]) -> None:
    """Words, or bytes, by their offset."""
    for offset, value in fields.items():
        bench.target.write_memory(
            address + offset, value if isinstance(value, bytes) else words(value)
        )


def surveyed(bench: Bench, symbols: Mapping[str, int]) -> Survey:
    rtos = Rtos()
    while (wanted := rtos.wanted(bench.target)) is not None:
        rtos.learn(wanted, symbols.get(wanted))
    survey = rtos.survey(bench.target)
    assert survey is not None
    return survey


def check_saved(survey: Survey, pushed: int) -> None:
    """Of the other thread, all registers that `pushed` bytes on its stack hold."""
    saved = survey.registers(OTHER, NAMES)
    assert [saved[f"r{n}"] for n in range(13)] == [*range(100, 104), *range(4, 12), 112]
    assert (saved["sp"], saved["lr"], saved["pc"]) == (STACK + pushed, 0x08000201, 0x08000300)
    floats = b"".join(saved[f"d{n}"].to_bytes(8, "little") for n in range(16))
    assert list(struct.unpack("<32f", floats)) == [1.5 * n for n in range(32)]
    assert saved["fpscr"] == 0x03000000


THREADX = {
    "_tx_thread_created_ptr": RAM,
    "_tx_thread_created_count": RAM + 4,
    "_tx_thread_current_ptr": RAM + 8,
    "_tx_thread_system_state": RAM + 12,
}


def threadx(bench: Bench, current: int) -> Survey:
    """`TX_THREAD_STRUCT` of `tx_api.h`, and the stack that the port for the Cortex-M7 leaves."""
    bench.run_to("blink")
    bench.target.write_memory(RAM, bytes(0x6000))
    put(bench, RAM, {0: HERE, 4: 2, 8: current})
    put(bench, TEXT, {0: b"here", 16: b"other"})
    common = {0: 0x54485244, 8: STACK}
    put(bench, HERE, {**common, 40: TEXT, 44: 3, 136: OTHER})
    put(bench, OTHER, {**common, 40: TEXT + 16, 44: 5, 48: 6, 136: HERE})
    saved = words(0xFFFFFFED) + CALLEE_SAVED_FPU + CALLEE_SAVED
    put(bench, STACK, {0: saved + FRAME + FRAME_FPU})
    return surveyed(bench, THREADX)


def test_threadx_s_threads_are_found_in_their_ring(bench: Bench) -> None:
    survey = threadx(bench, HERE)
    assert [(t.key, t.name, t.state) for t in survey.threads()] == [
        (HERE, "here", "Running; Priority 3"),  # to ThreadX it is ready
        (OTHER, "other", "Semaphore; Priority 5"),
    ]
    check_saved(survey, 4 + 64 + 32 + 0x68)


def test_when_threadx_waits_and_no_thread_runs_all_are_there_and_the_kernel(bench: Bench) -> None:
    survey = threadx(bench, 0)
    assert survey.current == 0
    assert [(t.key, t.name, t.state) for t in survey.threads()] == [
        (HERE, "here", "Ready; Priority 3"),
        (OTHER, "other", "Semaphore; Priority 5"),
        (0, "kernel", "no thread runs"),
    ]
    check_saved(survey, 4 + 64 + 32 + 0x68)


def test_rtx5_s_threads_are_found_in_its_three_lists(bench: Bench) -> None:
    """`osRtxInfo_t` and `osRtxThread_t` of `rtx_os.h`."""
    bench.run_to("blink")
    bench.target.write_memory(RAM, bytes(0x6000))
    delayed, waiting = OTHER + 0x100, OTHER + 0x200
    put(bench, RAM, {8: b"\2", 20: HERE, 36: OTHER, 44: delayed, 48: waiting})
    put(bench, TEXT, {0: b"here", 16: b"other", 32: b"delayed", 48: b"waiting"})
    put(bench, HERE, {0: b"\1\2", 4: TEXT, 32: b"\x18"})
    put(bench, OTHER, {0: b"\1\1", 4: TEXT + 16, 32: b"\x18", 34: b"\xed", 56: STACK})
    put(bench, delayed, {0: b"\1\x13", 4: TEXT + 32, 32: b"\x20"})
    put(bench, waiting, {0: b"\1\x63", 4: TEXT + 48, 32: b"\x28"})
    put(bench, STACK, {0: CALLEE_SAVED_FPU + CALLEE_SAVED + FRAME + FRAME_FPU})
    survey = surveyed(bench, {"osRtxInfo": RAM})
    assert survey.current == HERE
    assert {(t.key, t.name, t.state) for t in survey.threads()} == {
        (HERE, "here", "Running; Priority 24"),
        (OTHER, "other", "Ready; Priority 24"),
        (delayed, "delayed", "Waiting[Delay]; Priority 32"),
        (waiting, "waiting", "Waiting[Sem]; Priority 40"),
    }
    check_saved(survey, 64 + 32 + 0x68)


def test_argon_s_threads_are_found_where_it_lists_its_objects(bench: Bench) -> None:
    """`ar_thread_t` and `ar_kernel_t` of Argon's headers, with AR_GLOBAL_OBJECT_LISTS."""
    bench.run_to("blink")
    bench.target.write_memory(RAM, bytes(0x6000))
    node = 36  # of a thread, in the list of those that have been created
    put(bench, RAM, {0: HERE, 0x1C: 1, 0x100: HERE + node})
    put(bench, TEXT, {0: b"here", 16: b"other"})
    put(bench, HERE, {8: TEXT, 16: b"\x40\3", node: OTHER + node, node + 8: HERE})
    put(bench, OTHER, {0: STACK, 4: b"\1", 8: TEXT + 16, 16: b"\x20\5"})
    put(bench, OTHER, {node: HERE + node, node + 8: OTHER})
    put(bench, STACK, {0: CALLEE_SAVED + CALLEE_SAVED_FPU + FRAME + FRAME_FPU})
    survey = surveyed(bench, {"g_ar": RAM, "g_ar_objects": RAM + 0x100})
    assert survey.current == HERE
    assert [(t.key, t.name, t.state) for t in survey.threads()] == [
        (HERE, "here", "Running; Priority 64"),
        (OTHER, "other", "Sleeping; Priority 32"),
    ]
    check_saved(survey, 64 + 32 + 0x68)


def test_zephyr_s_threads_are_found_by_the_offsets_that_it_exports(bench: Bench) -> None:
    """Two threads in the layout of `include/zephyr/kernel_structs.h`, put into RAM by hand."""
    bench.run_to("blink")  # any task: Zephyr's threads run on the process stack as well
    kernel, offsets, size = 0x24000000, 0x24001000, 0x24001100
    main, worker, stack = 0x24002000, 0x24003000, 0x24004000
    where = {
        "state": 0x0D,
        "priority": 0x0E,
        "saved": 0x30,
        "psp": 0x50,
        "next": 0x60,
        "name": 0x68,
    }
    put = bench.target.write_memory
    put(kernel, bytes(0x5000))
    put(kernel + 8, words(main))
    put(kernel + 0x28, words(main))
    # version, current thread, all threads; entry, next, state, options, priority, stack, name
    put(offsets, words(1, 8, 0x28, 0, where["next"], where["state"], 0x0C))
    put(offsets + 28, words(where["priority"], where["psp"], where["name"]))
    put(size, b"\4")
    for thread, following, name in ((main, worker, b"main"), (worker, 0, b"worker")):
        put(thread + where["next"], words(following))
        put(thread + where["name"], name)
    put(worker + where["state"], b"\2\xff")  # pending; priority -1
    put(worker + where["saved"], words(*range(4, 12), stack))
    put(stack, words(100, 101, 102, 103, 112, 0x08000201, 0x08000300, 1 << 24))

    symbols = {
        "_kernel": kernel,
        "_kernel_thread_info_offsets": offsets,
        "_kernel_thread_info_size_t_size": size,
    }
    rtos = Rtos()
    while (wanted := rtos.wanted(bench.target)) is not None:
        rtos.learn(wanted, symbols.get(wanted))
    survey = rtos.survey(bench.target)
    assert survey is not None
    assert survey.current == main
    assert [(t.key, t.name, t.state) for t in survey.threads()] == [
        (main, "main", "Running; Priority 0"),
        (worker, "worker", "Pending; Priority -1"),
    ]
    saved = survey.registers(worker, NAMES[:17])
    assert [saved[f"r{n}"] for n in range(13)] == [*range(100, 104), *range(4, 12), 112]
    assert (saved["sp"], saved["lr"], saved["pc"]) == (stack + 0x20, 0x08000201, 0x08000300)
