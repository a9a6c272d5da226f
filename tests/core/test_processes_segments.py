"""Large values in anonymous shared memory: round trips, lifetimes, recycling, and what happens when there is no more."""

from __future__ import annotations

import array
import errno
import gc
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from shoal.serialization import dumps_with_buffers
from shoal.task_runners.processes.segments import (
    NoSegment,
    Segment,
    SegmentPool,
    load,
    needed,
    store,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="segments need pwrite")

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture
def np() -> Any:
    return pytest.importorskip("numpy")


class Zone:
    """Pickles out of band, without NumPy: its memory comes back as a bare memoryview."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Zone, (pickle.PickleBuffer(self.memory),)


class CopiedZone(Zone):
    """The same, but keeps a copy when it is unpickled."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _copied_zone, (pickle.PickleBuffer(self.memory),)


def _copied_zone(memory: Any) -> CopiedZone:
    return CopiedZone(bytearray(memory))


class Broken(Zone):
    """Fails to unpickle."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _broken, (pickle.PickleBuffer(self.memory),)


def _broken(memory: Any) -> Broken:
    raise KeyError("cannot be unpickled")


class Unmapped:
    """Counts calls of `on_unmapped`."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def sent(value: Any, on_unmapped: Callable[[], object] | None = None) -> Any:
    """The value as it arrives, the descriptor closed already."""
    segment, layout = put(value)
    try:
        return load(segment, layout, on_unmapped)
    finally:
        segment.close()


def put(value: Any) -> tuple[Segment, tuple[int, ...]]:
    data, buffers = dumps_with_buffers(value)
    segment = Segment.create(needed(data, buffers))
    return segment, store(data, buffers, segment)


def mappings() -> int:
    """How many segments this process maps."""
    return Path("/proc/self/maps").read_text().count("memfd:shoal")


def run(script: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program whose warnings are errors; it has the names that most of these need."""
    head = textwrap.dedent("""
        import errno, os, pickle, resource, signal, socket, sys
        from shoal.serialization import dumps_with_buffers
        from shoal.task_runners.processes.segments import *
        def put(value):
            data, buffers = dumps_with_buffers(value)
            segment = Segment.create(needed(data, buffers))
            return segment, store(data, buffers, segment)
        class Zone:
            def __init__(self, memory):
                self.memory = memory
            def __reduce_ex__(self, protocol):
                return Zone, (pickle.PickleBuffer(self.memory),)
    """)
    command = [sys.executable, "-W", "error", "-c", head + textwrap.dedent(script)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, **options
    )


# ---------------------------------------------------------------------- pickling with buffers


class TestDumpsWithBuffers:
    @pytest.mark.parametrize(
        "value",
        [None, True, 7, 1.5, 2j, "text", b"bytes" * KIB, [1, {"a": (2, None)}], {3}],
        ids=lambda value: type(value).__name__,
    )
    def test_plain_values_have_none(self, value: Any) -> None:
        data, buffers = dumps_with_buffers(value)
        assert buffers == []
        assert pickle.loads(data) == value

    def test_large_buffers_stay_out_and_small_ones_in(self) -> None:
        value = [Zone(bytearray(4095)), Zone(bytearray(4096)), Zone(b"")]
        data, buffers = dumps_with_buffers(value)
        assert [memoryview(buffer).nbytes for buffer in buffers] == [4096]
        assert 4095 < len(data) < 2 * 4095
        loaded = pickle.loads(data, buffers=buffers)
        assert [bytes(zone.memory) for zone in loaded] == [bytes(4095), bytes(4096), b""]

    def test_buffers_are_the_value_s_own_memory(self) -> None:
        memory = bytearray(8 * KIB)
        _, [buffer] = dumps_with_buffers(Zone(memory))
        memory[5] = 7
        assert memoryview(buffer)[5] == 7

    def test_what_plain_pickle_refuses_goes_to_cloudpickle_with_each_buffer_once(self) -> None:
        value = [Zone(bytearray(8 * KIB)), lambda: 5]
        data, buffers = dumps_with_buffers(value)
        assert len(buffers) == 1
        zone, function = pickle.loads(data, buffers=buffers)
        assert bytes(zone.memory) == bytes(8 * KIB)
        assert function() == 5

    def test_what_nothing_pickles_raises(self) -> None:
        with pytest.raises(TypeError, match="pickle"):
            dumps_with_buffers([Zone(bytearray(8 * KIB)), threading.Lock()])

    def test_a_buffer_that_says_main_is_no_reason_for_cloudpickle(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "cloudpickle", None)
        assert len(dumps_with_buffers(Zone(b"__main__" * KIB))[1]) == 1


# ---------------------------------------------------------------------- round trips


class TestRoundTrips:
    @pytest.mark.parametrize(
        "value",
        [
            None,
            "text" * 50_000,
            bytes(range(256)) * KIB,
            bytearray(range(256)) * KIB,
            array.array("d", range(20_000)),
            {"a": [bytearray(100_000), ("x", 1.5)], "b": {2: {3, 4}, "c": b"\0" * 70_000}},
            [],
        ],
        ids=["None", "str", "bytes", "bytearray", "array", "nested", "empty"],
    )
    def test_values_without_buffers_are_whole_and_nothing_stays_mapped(self, value: Any) -> None:
        unmapped = Unmapped()
        loaded = sent(value, unmapped)
        assert type(loaded) is type(value)
        assert loaded == value
        assert unmapped.count == 1

    def test_copies_of_mutable_values_can_be_written(self) -> None:
        loaded = sent(bytearray(100_000))
        loaded[0] = 1
        loaded.append(2)
        assert len(loaded) == 100_001

    def test_bare_buffers_come_as_read_only_views(self) -> None:
        loaded = sent([Zone(bytearray(b"x" * 5000)), Zone(b"y" * 70_001)])
        assert [bytes(zone.memory) for zone in loaded] == [b"x" * 5000, b"y" * 70_001]
        with pytest.raises(TypeError, match="read-only"):
            loaded[0].memory[0] = 1

    def test_a_buffer_met_twice_is_stored_once(self) -> None:
        zone = Zone(bytearray(100_000))
        segment, layout = put([zone, zone])
        one, two = load(segment, layout)
        assert one is two
        assert len(layout) == 2
        segment.close()

    def test_many_buffers_of_odd_lengths(self) -> None:
        values = [bytes([length % 251]) * length for length in range(4096, 4300)]
        loaded = sent([Zone(value) for value in values])
        assert [bytes(zone.memory) for zone in loaded] == values

    def test_zero_size_buffers(self) -> None:
        views = [pickle.PickleBuffer(part) for part in (b"", b"ab", b"")]
        kept: list[pickle.PickleBuffer] = []
        data = pickle.dumps(views, 5, buffer_callback=kept.append)
        segment = Segment.create(needed(data, kept))
        layout = store(data, kept, segment)
        assert layout == (len(data), 0, 2, 0)
        assert [bytes(view) for view in load(segment, layout)] == [b"", b"ab", b""]
        segment.close()

    def test_the_descriptor_alone_will_do(self) -> None:
        segment, layout = put(Zone(b"z" * 5000))
        assert bytes(load(segment.fileno(), layout).memory) == b"z" * 5000
        assert os.fstat(segment.fileno()).st_size == segment.size  # not closed
        segment.close()

    def test_the_layout_is_a_small_tuple_of_lengths(self) -> None:
        segment, layout = put([Zone(b"z" * 5000), Zone(b"z" * 6000)])
        assert layout[1:] == (5000, 6000)
        assert pickle.loads(pickle.dumps(layout)) == layout
        segment.close()

    def test_writes_may_be_partial(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:999], at))
        value = random.Random(1).randbytes(50_001)
        assert bytes(sent(Zone(value)).memory) == value

    def test_one_system_call_moves_no_more_than_it_may(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shoal.task_runners.processes.segments._CHUNK", 1000)
        pwrite, lengths = os.pwrite, []

        def noted(fd: int, data: Any, at: int) -> int:
            lengths.append(len(data))
            return pwrite(fd, data, at)

        monkeypatch.setattr(os, "pwrite", noted)
        value = random.Random(2).randbytes(50_001)
        assert bytes(sent(Zone(value)).memory) == value
        assert max(lengths) == 1000

    def test_classes_of_main_cross_to_another_process(self, np: Any) -> None:
        reader = (
            "import pickle, sys; from shoal.task_runners.processes.segments import load;"
            "value = load(int(sys.argv[1]), pickle.loads(bytes.fromhex(sys.argv[2])));"
            "print(value.total(), value.x.flags.writeable)"
        )
        result = run(f"""
            import subprocess, numpy
            class Mine:
                def __init__(self, x):
                    self.x = x
                def total(self):
                    return float(self.x.sum())
            segment, layout = put(Mine(numpy.ones(100_000)))
            assert len(layout) == 2
            arguments = [str(segment.fileno()), pickle.dumps(layout).hex()]
            subprocess.run([sys.executable, "-c", {reader!r}, *arguments],
                           pass_fds=[segment.fileno()], check=True)
        """)
        assert (result.stderr, result.stdout) == ("", "100000.0 False\n")


class TestNumPy:
    def test_arrays_are_views_that_cannot_be_written(self, np: Any) -> None:
        value = np.arange(100_000.0)
        loaded = sent(value)
        assert np.array_equal(loaded, value)
        assert loaded.dtype == value.dtype
        assert not loaded.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            loaded[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            loaded.flags.writeable = True

    def test_several_arrays_in_one_value_are_aligned(self, np: Any) -> None:
        value = {
            f"a{number}": np.full(10_000 + number, number, dtype)
            for number, dtype in enumerate(["i1", "f8", "c16", "u2", "?"])
        }
        loaded = sent([value, "between", value["a1"]])
        for name, one in value.items():
            assert np.array_equal(loaded[0][name], one)
            assert loaded[0][name].dtype == one.dtype
            assert loaded[0][name].__array_interface__["data"][0] % 64 == 0
        assert loaded[2] is loaded[0]["a1"]

    @pytest.mark.parametrize("shape", [(0,), (0, 5), ()], ids=str)
    def test_empty_and_zero_dimensional_arrays(self, np: Any, shape: tuple[int, ...]) -> None:
        loaded = sent([np.zeros(shape, "f4"), np.ones(50_000)])
        assert (loaded[0].shape, loaded[0].dtype) == (shape, np.dtype("f4"))
        assert loaded[1].sum() == 50_000

    def test_non_contiguous_arrays_and_those_in_fortran_order(self, np: Any) -> None:
        square = np.arange(90_000).reshape(300, 300)
        value = [square[::2, ::3], square.T, np.asfortranarray(square), square[::-1]]
        for loaded, one in zip(sent(value), value, strict=True):
            assert np.array_equal(loaded, one)

    def test_arrays_of_objects_of_records_and_of_dates(self, np: Any) -> None:
        objects = np.array([{"a": 1}, None, "x"] * 5000, dtype=object)
        records = np.zeros(5000, dtype=[("a", "i4"), ("b", "f8")])
        dates = np.arange(5000).astype("M8[s]")  # has no buffer that NumPy would show
        loaded = sent([objects, records, dates])
        assert loaded[0].tolist() == objects.tolist()
        assert np.array_equal(loaded[1], records)
        assert np.array_equal(loaded[2], dates)

    def test_an_array_outlives_descriptor_and_siblings(self, np: Any) -> None:
        unmapped = Unmapped()
        first, second = sent([np.zeros(50_000), np.ones(50_000)], unmapped)
        part = second[10:20]
        del first, second
        gc.collect()
        assert unmapped.count == 0
        assert part.tolist() == [1.0] * 10
        del part
        assert unmapped.count == 1

    def test_an_array_in_a_cycle_is_unmapped_with_it(self, np: Any) -> None:
        unmapped = Unmapped()
        value = [sent(np.zeros(50_000), unmapped)]
        value.append(value)
        del value
        gc.collect()
        assert unmapped.count == 1

    def test_the_module_does_not_import_numpy(self) -> None:
        result = run("print(put(Zone(b'x' * 5000))[1][1:], 'numpy' in sys.modules)")
        assert (result.stderr, result.stdout) == ("", "(5000,) False\n")


# ---------------------------------------------------------------------- lifetimes


class TestMappings:
    @linux_only
    def test_the_memory_is_unmapped_before_it_is_told(self) -> None:
        seen: list[int] = []
        before = mappings()
        zone = sent(Zone(b"x" * 5000), lambda: seen.append(mappings()))
        assert mappings() == before + 1
        other = zone.memory[7:9]
        del zone
        assert (mappings(), seen) == (before + 1, [])
        del other
        assert (mappings(), seen) == (before, [before])

    @linux_only
    def test_nothing_is_mapped_after_load_where_the_value_keeps_no_view(self) -> None:
        before = mappings()
        unmapped = Unmapped()
        text, zone = sent(["x" * 100_000, CopiedZone(b"y" * 5000)], unmapped)
        assert (mappings(), unmapped.count) == (before, 1)
        assert (len(text), bytes(zone.memory)) == (100_000, b"y" * 5000)

    def test_each_load_maps_for_itself(self) -> None:
        segment, layout = put(Zone(b"x" * 5000))
        ends = [Unmapped(), Unmapped()]
        one, two = (load(segment, layout, end) for end in ends)
        segment.close()
        del one
        assert [end.count for end in ends] == [1, 0]
        assert bytes(two.memory) == b"x" * 5000

    def test_an_error_of_unpickling_keeps_nothing_mapped_once_it_is_dropped(self) -> None:
        unmapped = Unmapped()
        value = [Zone(b"x" * 5000), Broken(b"y" * 5000)]
        with pytest.raises(KeyError, match="cannot be unpickled") as caught:
            sent(value, unmapped)
        del caught
        gc.collect()
        assert unmapped.count == 1

    def test_finalizers_of_a_cycle_still_read_what_they_hold(self) -> None:
        class Reads:
            def __init__(self, memory: Any) -> None:
                self.memory = memory
                self.cycle = self

            def __del__(self) -> None:
                read.append((bytes(self.memory[:2]), unmapped.count))
                kept.append(self.memory)

        read: list[tuple[bytes, int]] = []
        kept: list[Any] = []
        unmapped = Unmapped()
        Reads(sent(Zone(b"x" * 5000), unmapped).memory)
        gc.collect()
        assert read == [(b"xx", 0)]
        gc.collect()
        assert (bytes(kept[0]), unmapped.count) == (b"x" * 5000, 0)
        kept.clear()
        gc.collect()
        assert unmapped.count == 1

    def test_a_bare_view_in_a_cycle_is_unmapped_in_the_end(self) -> None:
        unmapped = Unmapped()
        value = [sent(Zone(b"x" * 5000), unmapped).memory]
        value.append(value)
        del value
        gc.collect()
        gc.collect()
        assert unmapped.count == 1

    def test_a_segment_shorter_than_the_layout_is_an_error_and_no_signal(self) -> None:
        segment, layout = put(Zone(b"x" * 5000))
        unmapped = Unmapped()
        with pytest.raises(ValueError, match="ends at byte"):
            load(segment, (*layout, 5000), unmapped)
        assert unmapped.count == 1
        segment.close()

    def test_a_descriptor_that_is_none_is_an_error(self) -> None:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            load(2**20 - 1, (5,))

    def test_the_exit_of_the_program_is_silent(self) -> None:
        result = run("""
            class Holder:
                pass
            segment, layout = put(Zone(b"x" * 5000))
            value = load(segment, layout, lambda: None)
            holder = Holder()
            holder.cycle = [holder, value, put(b"")[0], load(segment, layout)]
            sys.modules["kept"] = holder
            pool = SegmentPool()
            pool.give_back(pool.take(5000))
        """)
        assert (result.returncode, result.stderr) == (0, "")


class TestSegments:
    def test_are_closed_once(self) -> None:
        segment = Segment.create(5000)
        fd = segment.fileno()
        segment.close()
        with open(os.devnull) as other:
            assert other.fileno() == fd  # the number is used again
            segment.close()
            del segment
            assert os.fstat(other.fileno())

    def test_say_when_they_are_closed(self) -> None:
        segment = Segment.create(5000)
        segment.close()
        with pytest.raises(ValueError, match="closed"):
            segment.fileno()
        with pytest.raises(ValueError, match="closed"):
            store(b"x", [], segment)

    def test_close_with_their_object(self) -> None:
        segment = Segment.create(5000)
        fd = segment.fileno()
        del segment
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(fd)

    def test_do_not_mind_a_descriptor_that_somebody_closed(self) -> None:
        segment = Segment.create(5000)
        os.close(segment.fileno())
        del segment  # a complaint would be a warning, and fail this test

    def test_are_not_inherited_by_programs(self) -> None:
        segment = Segment.create(5000)
        assert not os.get_inheritable(segment.fileno())
        segment.close()

    def test_adopt_a_descriptor(self) -> None:
        segment, layout = put(Zone(b"x" * 5000))
        adopted = Segment(os.dup(segment.fileno()), segment.size)
        segment.close()
        assert bytes(load(adopted, layout).memory) == b"x" * 5000
        adopted.close()

    def test_too_small_a_segment_is_not_written_to(self) -> None:
        data, buffers = dumps_with_buffers(Zone(b"x" * 5000))
        segment = Segment.create(needed(data, buffers) - 1)
        with pytest.raises(ValueError, match="do not fit"):
            store(data, buffers, segment)
        segment.close()

    @linux_only
    @pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, None], ids=str)
    def test_are_files_without_a_name_where_there_is_no_memfd(
        self, number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuses(*_: Any) -> int:
            if number is None:
                raise AttributeError
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "memfd_create", refuses, raising=False)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        segment, layout = put(Zone(b"x" * 5000))
        assert str(tmp_path) in os.readlink(f"/proc/self/fd/{segment.fileno()}")
        assert not os.get_inheritable(segment.fileno())
        assert list(tmp_path.iterdir()) == []
        assert bytes(load(segment, layout).memory) == b"x" * 5000
        segment.close()


# ---------------------------------------------------------------------- when there is no more


class TestScarcity:
    def test_no_descriptor_left(self) -> None:
        result = run("""
            segment, layout = put([Zone(b"x" * 5000), "y"])
            pool = SegmentPool()
            pool.give_back(pool.take(9000))
            resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
            held = []
            try:
                while True:
                    held.append(Segment.create(5000))
            except NoSegment as error:
                assert error.errno == errno.EMFILE, error
                assert "open files" in str(error), error
            ends = []
            zone, text = load(segment, layout, lambda: ends.append(1))
            assert (bytes(zone.memory), text) == (b"x" * 5000, "y")
            assert zone.memory.readonly
            del zone
            assert ends == [1]
            held.append(pool.take(100_000))  # in place of the free one of another size
            try:
                pool.take(100_000)
            except NoSegment:
                print(len(held) > 20)
        """)
        assert (result.stderr, result.stdout) == ("", "True\n")

    def test_no_file_of_that_size(self) -> None:
        result = run("""
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            Segment.create(100_000)
            for create in (Segment.create, SegmentPool().take):
                try:
                    create(100_001)
                except NoSegment as error:
                    print(errno.errorcode[error.errno])
        """)
        assert (result.stderr, result.stdout) == ("", "EFBIG\nEFBIG\n")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_no_space_left(self) -> None:
        segment = Segment(os.open("/dev/full", os.O_WRONLY), MIB)
        data, buffers = dumps_with_buffers(Zone(b"x" * 5000))
        with pytest.raises(NoSegment) as caught:
            store(data, buffers, segment)
        assert caught.value.errno == errno.ENOSPC
        segment.close()

    def test_a_file_that_takes_nothing_is_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "pwrite", lambda *_: 0)
        segment = Segment.create(5000)
        with pytest.raises(NoSegment) as caught:
            store(b"x" * 5000, [], segment)
        assert caught.value.errno == errno.ENOSPC
        segment.close()


class TestSuddenDeath:
    @linux_only
    def test_what_a_killed_writer_passed_on_stays_and_nothing_else(self) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with here, there:
            result = run(
                f"""
                there = socket.socket(fileno={there.fileno()})
                segment, layout = put(Zone(b"x" * {MIB}))
                unsent, _ = put(Zone(b"y" * {MIB}))
                socket.send_fds(there, [pickle.dumps(layout)], [segment.fileno()])
                os.kill(os.getpid(), signal.SIGKILL)
                """,
                pass_fds=[there.fileno()],
            )
            assert (result.returncode, result.stderr) == (-signal.SIGKILL, "")
            message, [fd], _, _ = socket.recv_fds(here, 1000, 10)
        before = mappings()
        segment = Segment(fd, MIB)
        zone = load(segment, pickle.loads(message))
        segment.close()
        assert bytes(zone.memory) == b"x" * MIB
        del zone
        assert mappings() == before

    def test_a_killed_writer_leaves_no_file(self, tmp_path: Path) -> None:
        result = run(
            f"""
            del os.memfd_create
            segment, layout = put(Zone(b"x" * {MIB}))
            value = load(segment, layout)
            print(os.readlink(f"/proc/self/fd/{{segment.fileno()}}"), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        assert (result.returncode, result.stderr) == (-signal.SIGKILL, "")
        assert result.stdout.startswith(str(tmp_path))
        assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- recycling


class TestSegmentPool:
    def test_takes_one_that_fits_again(self) -> None:
        pool = SegmentPool()
        segment = pool.take(100 * KIB)
        pool.give_back(segment)
        assert pool.take(80 * KIB) is segment
        assert pool.take(80 * KIB) is not segment
        pool.close()

    @pytest.mark.parametrize(
        ("nbytes", "again"),
        [(100_001, False), (100_000, True), (75_000, True), (74_999, False)],
        ids=["larger", "equal", "a quarter less", "even less"],
    )
    def test_wastes_at_most_a_quarter(self, nbytes: int, again: bool) -> None:
        pool = SegmentPool()
        segment = pool.take(100_000)
        pool.give_back(segment)
        assert (pool.take(nbytes) is segment) is again
        pool.close()

    def test_takes_the_best_fit_and_of_those_the_last(self) -> None:
        pool = SegmentPool()
        segments = [pool.take(size) for size in (120_000, 100_000, 100_000, 110_000)]
        for segment in segments:
            pool.give_back(segment)
        taken = [pool.take(95_000) for _ in range(4)]
        assert taken == [segments[index] for index in (2, 1, 3, 0)]
        pool.close()

    def test_keeps_no_more_than_its_cap_and_closes_the_oldest(self) -> None:
        pool = SegmentPool(cap=300_000)
        segments = [pool.take(size) for size in (100_000, 90_000, 110_000, 10_000)]
        for segment in segments:
            pool.give_back(segment)
        with pytest.raises(ValueError, match="closed"):
            segments[0].fileno()
        assert [pool.take(segment.size) for segment in segments[1:]] == segments[1:]
        pool.close()

    def test_one_above_the_cap_does_not_drive_out_the_others(self) -> None:
        pool = SegmentPool(cap=300_000)
        small, large = pool.take(100_000), pool.take(300_001)
        pool.give_back(small)
        pool.give_back(large)
        with pytest.raises(ValueError, match="closed"):
            large.fileno()
        assert pool.take(100_000) is small
        pool.close()

    def test_refuses_one_given_back_before_and_one_closed(self) -> None:
        pool = SegmentPool()
        segment = pool.take(100_000)
        pool.give_back(segment)
        with pytest.raises(ValueError, match="given back before"):
            pool.give_back(segment)
        pool.close()
        with pytest.raises(ValueError, match="closed"):
            pool.give_back(segment)

    def test_closed_it_keeps_nothing(self) -> None:
        pool = SegmentPool()
        late, segment = pool.take(100_000), pool.take(100_000)
        pool.give_back(segment)
        pool.close()
        pool.close()
        pool.give_back(late)
        for closed in (late, segment):
            with pytest.raises(ValueError, match="closed"):
                closed.fileno()

    def test_recycled_memory_holds_only_the_new_value(self) -> None:
        pool = SegmentPool()
        for length, byte in ((100_000, b"x"), (90_000, b"y"), (99_999, b"z")):
            data, buffers = dumps_with_buffers(Zone(byte * length))
            segment = pool.take(needed(data, buffers))
            layout = store(data, buffers, segment)
            assert bytes(load(segment, layout).memory) == byte * length
            pool.give_back(segment)
        pool.close()

    def test_never_hands_out_one_in_use(self) -> None:
        pool = SegmentPool(cap=MIB)
        taken: set[int] = set()
        clashes: list[int] = []
        # Until all have ended: descriptors are numbered anew.
        held: dict[int, list[tuple[Segment, Zone]]] = {}
        ending = time.monotonic() + 0.3

        def work(seed: int) -> None:
            chance = random.Random(seed)
            own = held[seed] = []
            while time.monotonic() < ending:
                if own and chance.random() < 0.5:
                    segment, zone = own.pop(chance.randrange(len(own)))
                    if bytes(zone.memory[:3]) + bytes(zone.memory[-3:]) != bytes([seed] * 6):
                        clashes.append(seed)
                    del zone
                    taken.remove(segment.fileno())
                    pool.give_back(segment)
                else:
                    size = chance.randint(4 * KIB, 400 * KIB)
                    data, buffers = dumps_with_buffers(Zone(bytes([seed]) * size))
                    segment = pool.take(needed(data, buffers))
                    if segment.fileno() in taken:
                        clashes.append(seed)
                    taken.add(segment.fileno())
                    layout = store(data, buffers, segment)
                    own.append((segment, load(segment, layout)))

        threads = [threading.Thread(target=work, args=[seed]) for seed in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pool.close()
        assert clashes == []
