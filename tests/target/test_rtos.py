"""The threads of `tests/firmware/tasks.c`, which keeps them as FreeRTOS does."""

from __future__ import annotations

from collections.abc import Iterator
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
