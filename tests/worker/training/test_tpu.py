"""What is said where there is no TPU: which wheel to install, and why one cannot be found, before anybody waits."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

pytestmark = pytest.mark.tensorflow

TPU_WHEEL = {"tensorflow-tpu": "2.19.1"}


@pytest.mark.parametrize(
    ("wheels", "attached", "has_library", "sentence"),
    [
        (
            {"tensorflow": "2.21.0"},
            True,
            True,
            "strategy TPU needs TensorFlow's wheel for TPUs, but tensorflow 2.21.0 is installed, which has no kernels "
            "for them: in an environment of its own, pip install tensorflow-tpu==2.19.1 -f "
            "https://storage.googleapis.com/libtpu-tf-releases/index.html",
        ),
        ({}, True, True, "but another build is installed"),
        ({"tensorflow-cpu": "2.19.1"}, False, True, "but tensorflow-cpu 2.19.1 is installed"),
        (
            {**TPU_WHEEL, "tensorflow": "2.19.1"},
            True,
            True,
            "overwrite each other's files: pip uninstall tensorflow-tpu tensorflow, then pip install tensorflow-tpu==",
        ),
        (TPU_WHEEL, True, False, "but there is none: pip install libtpu -f https://"),
        (TPU_WHEEL, False, False, None),
        (TPU_WHEEL, True, True, None),
    ],
)
def test_what_is_missing(wheels: dict[str, str], attached: bool, has_library: bool, sentence: str | None) -> None:
    from distrain.worker.strategies.tpu import what_is_missing

    found = what_is_missing(wheels, attached=attached, has_library=has_library)
    assert (found is None) if sentence is None else (sentence in found)


def test_what_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from distrain.worker.strategies import tpu

    assert tpu.installed().keys() & {"tensorflow", "tensorflow-cpu", "tensorflow-tpu"}
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "libtpu.so"))
    monkeypatch.setattr(tpu.importlib.util, "find_spec", lambda name: None)
    assert not tpu.has_library()
    (tmp_path / "libtpu.so").touch()
    assert tpu.has_library()


def test_a_job_ends_with_the_sentence(start: Any, make_job: Any) -> None:
    from distrain.worker.strategies.tpu import has_library, installed, what_is_missing

    sentence = what_is_missing(installed(), attached=True, has_library=has_library())
    if sentence is None:
        pytest.skip("TensorFlow for TPUs is installed here")
    run = start(make_job("TPU")).wait()
    assert run.chief.status == 2, run.report()
    (failure,) = run.chief.of("failure")
    assert failure["message"] == sentence
    assert "Traceback" not in run.chief.text


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of somebody who takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def metadata() -> Iterator[str]:
    """The address of a metadata server as Google Cloud's."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"projects/1/zones/here" if self.path.endswith("zone") else b"project")

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def refused(name: str | None) -> str:
    from distrain.worker.refusal import Refusal
    from distrain.worker.strategies.tpu import resolve

    with pytest.raises(Refusal) as refusal:
        resolve(name)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_name_that_nobody_answers_for(monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    from distrain.worker.strategies import tpu

    monkeypatch.setenv("GCE_METADATA_HOST", silent)
    monkeypatch.setattr(tpu, "LOOKUP_TIMEOUT_S", 0.5)
    began = time.monotonic()
    message = refused("mine")
    assert time.monotonic() - began < 60
    assert message.startswith("the TPU 'mine' cannot be looked up: Google Cloud's metadata server does not answer ")
    assert message.endswith("grpc://10.0.0.2:8470, or leave it out on a host that has the TPU")


def test_a_name_away_from_google_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:  # bound and not listening: it refuses
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{held.getsockname()[1]}")
        assert "metadata server cannot be reached (<urlopen error" in refused("mine")


def test_a_name_that_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch, metadata: str) -> None:
    from tensorflow.python.tpu.client import client

    monkeypatch.setattr(client, "_GOOGLE_API_CLIENT_INSTALLED", False)
    monkeypatch.setenv("GCE_METADATA_HOST", metadata)
    assert "Run `pip install cloud-tpu-client` to fix; give strategy.tpu its address" in refused("mine")


def test_an_address_and_the_host_itself_need_no_lookup() -> None:
    from distrain.worker.strategies.tpu import resolve

    assert resolve("grpc://127.0.0.1:8470").cluster_spec().as_dict() == {"worker": ["127.0.0.1:8470"]}
    assert resolve(None).cluster_spec().as_dict() == {}


def test_a_host_without_a_tpu(tmp_path: Any) -> None:
    """In a process of its own, since it sets up TensorFlow."""
    import subprocess
    import sys

    program = """
from distrain.worker.refusal import Refusal
from distrain.worker.strategies import tpu
try:
    tpu.connect(tpu.resolve(None), None)
except Refusal as refusal:
    print(refusal)
"""
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    (line,) = found.stdout.splitlines()
    assert line.startswith("no TPU can be used in this host: ")


def test_what_takes_too_long_is_left_behind() -> None:
    from distrain.worker.strategies.tpu import within

    assert within(60, lambda: 7) == 7
    with pytest.raises(LookupError, match="of its own"):
        within(60, lambda: (_ for _ in ()).throw(LookupError("of its own")))
    held = threading.Event()
    try:
        with pytest.raises(TimeoutError, match=r"no answer within 0.1 seconds"):
            within(0.1, lambda: held.wait(60))
    finally:
        held.set()
