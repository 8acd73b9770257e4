"""What a terminal is spared, and what it must never be spared."""

import pytest

from distrain.launcher.sinks.fold import Folder, harmless, is_notice, last_state

# As TensorFlow 2.21 prints them; the last three as older releases do.
NOTICES = b"""\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795223888.011811    7621 port.cc:153] oneDNN custom operations are on. You may see slightly different \
numerical results due to floating-point round-off errors from different computation orders. To turn them off, set the \
environment variable `TF_ENABLE_ONEDNN_OPTS=0`.
I0000 00:00:1795223888.012227    7621 cudart_stub.cc:31] Could not find cuda drivers on your machine, \
GPU will not be used.
I0000 00:00:1795223888.201375    7621 cpu_feature_guard.cc:227] This TensorFlow binary is optimized to use \
available CPU instructions in performance-critical operations.
To enable the following instructions: AVX2 AVX512F FMA, in other operations, rebuild TensorFlow with the \
appropriate compiler flags.
E0000 00:00:1795223894.894805    7621 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed call to \
cuInit: UNKNOWN ERROR (303)
I0000 00:00:1795231451.798073   24571 local_rendezvous.cc:432] Local rendezvous recv item cancelled. Key hash: 653989
W0000 00:00:1795231451.798073   24571 local_rendezvous.cc:412] Local rendezvous is aborting with status: \
OUT_OF_RANGE: End of sequence
I0000 00:00:1795223894.923247    7621 grpc_server_lib.cc:467] Started server with target: grpc://127.0.0.1:43811
I0000 00:00:1795223894.956268    7705 coordination_service.h:529] /job:worker/replica:0/task:0 has connected to \
coordination service. Incarnation: 7928721634991495285
I0000 00:00:1795223894.995158    7705 coordination_service.cc:502] Waiting for 0/2 tasks to connect.
I0000 00:00:1795223894.956608    7621 coordination_service_agent.cc:245] Coordination agent has successfully connected.
I0000 00:00:1795223894.999512    7704 coordination_service.cc:1472] Barrier(WaitForAllTasks::13::0) has passed with \
status: OK
W0000 00:00:1763000000.123456    1234 computation_placer.cc:177] computation placer already registered. Please check.
2024-05-01 10:00:00.123456: I external/local_xla/xla/tsl/cuda/cudart_stub.cc:32] Could not find cuda drivers on \
your machine
2024-05-01 10:00:00.123456: E external/local_xla/xla/stream_executor/cuda/cuda_dnn.cc:9261] Unable to register cuDNN \
factory: Attempting to register factory for plugin cuDNN when one has already been registered
2024-05-01 10:00:00.123456: W tensorflow/compiler/tf2tensorrt/utils/py_utils.cc:38] TF-TRT Warning: Could not \
find TensorRT
"""

SHOWN = b"""\
I0000 00:00:1795223894.901829    7621 coordination_service.cc:221] Initializing CoordinationService
I0000 00:00:1795223894.956324    7705 coordination_service.cc:502] Waiting for 1/2 tasks to connect.
I0000 00:00:1795223894.956333    7705 coordination_service.cc:505] Example stragglers:
E0000 00:00:1795223894.956333    7705 coordination_service.cc:700] /job:worker/replica:0/task:1 has been set to ERROR
W0000 00:00:1795223894.956333    7705 coordination_service.cc:700] Waiting for 0/2 tasks to connect.
I0000 00:00:1795223894.956333    7705 coordination_service.cc:1472] Barrier(x) has passed with status: INTERNAL: gone
E0000 00:00:1795223894.956333    7705 base_collective_executor.cc:258] BaseCollectiveExecutor::StartAbort UNAVAILABLE
W0000 00:00:1795231451.798383   24947 local_rendezvous.cc:412] Local rendezvous is aborting with status: CANCELLED: gone
I0000 00:00:1795223894.956333    7705 ring_alg.cc:290] Aborting RingReduce with UNAVAILABLE: Collective ops is aborted
E0000 00:00:1795223894.956333    7705 cuda_platform.cc:52] out of memory
F0000 00:00:1795223894.956333    7705 cpu_feature_guard.cc:227] This TensorFlow binary is optimized for another machine.
W0000 00:00:1795223894.956333    7705 something_new.cc:1] never seen before
E0000 00:00:1795223894.956333    7705 grpc_server_lib.cc:467] Could not start gRPC server: port 1234 in use
my code: port.cc:153] oneDNN custom operations are on
Could not find cuda drivers
"""


def test_notices_are_counted_and_folded():
    folder = Folder()
    assert folder.notices() is None
    assert folder.feed(0, "worker:0", NOTICES + b"mine\n") == b"mine\n"
    count = NOTICES.count(b"\n")
    assert folder.notices() == f"TensorFlow start-up notices: {count} lines from 1 task folded, in logs/"
    folder.feed(0, "worker:1", NOTICES)
    assert folder.notices() == f"TensorFlow start-up notices: {2 * count} lines from 2 tasks folded, in logs/"


@pytest.mark.parametrize("line", SHOWN.splitlines())
def test_what_tells_of_trouble_is_never_folded(line):
    assert not is_notice(line)
    assert Folder().feed(0, "worker:0", line + b"\n") == line + b"\n"


def test_a_dump_of_options_goes_with_its_notice():
    """As a server of TensorFlow's prints it when a chief connects."""
    dump = (
        b"I0000 00:00:1795238276.573317   21124 eager_service_impl.cc:349] Creating sync eager service context with "
        b"rendezvous_id on host host3 /job:ps/replica:0/task:0/device:CPU:0\n"
        b"I0000 00:00:1795238276.573797   21124 eager_service_impl.cc:355] SessionOptions: goo.gle/debugproto   \n"
        b'device_count {\n  key: "CPU"\n  value: 1\n}\nallow_soft_placement: true\nexperimental {\n'
        b'  collective_group_leader: "/job:ps/replica:0/task:0"\n}\n\n'
    )
    folder = Folder()
    assert folder.feed(0, "ps:0", dump[:300]) + folder.feed(0, "ps:0", dump[300:] + b"loss: 0.5\n") == b"loss: 0.5\n"
    assert folder.feed(0, "worker:0", b"value: 1\n") == b"value: 1\n", "another task's"


def test_notices_are_folded_wherever_the_bytes_are_cut():
    text = NOTICES.replace(b"\n", b"\nkept\n")
    for step in (1, 5, 64, 1000):
        folder, shown = Folder(), b""
        for start in range(0, len(text), step):
            shown += folder.feed(0, "worker:0", text[start : start + step])
        assert shown == b"kept\n" * NOTICES.count(b"\n")


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b"1%\r2%\r3%\n", b"3%\n"),
        (b"\r1%\r2%\r\n", b"2%\n"),
        (b"dos\r\nlines\r\n", b"dos\nlines\n"),
        (b"plain\n10%\r20%\nplain\n", b"plain\n20%\nplain\n"),
        (b"\b\b\b\b\r\x1b[1m 5/10\x1b[0m \x1b[37m====\x1b[0m\n", b" 5/10 ====\n"),
        (b"\x1b[2J\x1b[H\x1b[31mred\x1b[0m\n", b"red\n"),
        (b"\x1b]0;a title\x07text\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n", b"textlink\n"),
        (b"\x1bP1;2qpicture\x1b\\after\n", b"after\n"),
        (b"\x1b]0;never ended\nnext\n", b"]0;never ended\nnext\n"),
        (b"\x1b(B\x1bc\x1b7\x1b=reset\n", b"reset\n"),
        (b"bell\x07 back\x08 nul\x00 del\x7f tab\t\n", b"bell back nul del tab\t\n"),
        ("C1 \x9b2J\x85 é 日本\n".encode(), "C1 2J é 日本\n".encode()),
        (b"bad \xff\xfe utf-8 \xc3\n", "bad \ufffd\ufffd utf-8 \ufffd\n".encode()),
        (b"\n\n", b"\n\n"),
    ],
)
def test_lines_are_made_fit_for_a_terminal(printed, shown):
    assert Folder().feed(0, "worker:0", printed) == shown
    one_by_one, got = Folder(), b""
    for byte in printed:
        got += one_by_one.feed(0, "worker:0", bytes([byte]))
    assert got == shown


@pytest.mark.parametrize("byte", [bytes([byte]) for byte in range(256)])
def test_no_byte_of_control_gets_through(byte):
    for text in (byte, b"a\x1b" + byte + b"b", b"\x1b[" + byte, b"\xc2" + byte):
        shown = harmless(text).decode()
        assert all(character in "\t\n" or ord(character) >= 0x20 for character in shown)
        assert not any(0x7F <= ord(character) < 0xA0 for character in shown)


def test_a_bar_in_flight_is_shown_every_ten_seconds_and_once_at_its_end():
    folder = Folder()
    shown = []
    for n in range(101):
        text = folder.feed(n * 0.5, "worker:0", b"\r%d%%" % n)
        shown += [(n * 0.5, text)] if text else []
    assert shown == [(10.0, b"20%\n"), (20.0, b"40%\n"), (30.0, b"60%\n"), (40.0, b"80%\n"), (50.0, b"100%\n")]
    assert folder.feed(51, "worker:0", b" done\n") == b"100% done\n"


def test_a_bar_without_an_end_does_not_grow():
    folder = Folder()
    for n in range(10_000):
        folder.feed(0, "worker:0", b"%d " % n + b"#" * 100 + b"\r")
    assert folder.finish("worker:0") == b"9999 " + b"#" * 100 + b"\n"
    assert folder.finish("worker:0") == b""


def test_last_state_keeps_lines_without_a_carriage_return():
    assert last_state(b"a\nb\rc\nd") == b"a\nc\nd"
    assert last_state(b"half\r") == b"half\r"


def test_a_long_line_is_cut_with_a_note():
    shown = Folder(longest_line_bytes=10).feed(0, "ps:1", b"0123456789abc\nok\n")
    assert shown == b"0123456789 [distrain: cut at 10 bytes; whole in logs/ps-1.log]\nok\n"
