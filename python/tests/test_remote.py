"""Checkpoints at URLs, from a server of this process that gives ranges."""

import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import safetensors.numpy
import pytest
from conftest import COLLAPSED, FIXTURES, HEALTHY

import ckpt_tools


class Ranges(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/locked.pt":
            return self.answer(403, b"")
        if self.path == "/round.pt":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        path = FIXTURES / self.path.lstrip("/")
        if not path.is_file():
            return self.answer(404, b"")
        data = path.read_bytes()
        start, end = self.headers["Range"].removeprefix("bytes=").split("-")
        part = data[int(start) : int(end) + 1]
        self.answer(206, part, f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}")

    def answer(self, status, body, content_range=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_tensors_at_a_url_are_those_of_the_file(url):
    here = ckpt_tools.load(HEALTHY, framework="np")
    there = ckpt_tools.load(f"{url}/healthy-run/step-02000.pt", framework="np")
    assert list(here) == list(there)
    for name, tensor in here.items():
        np.testing.assert_array_equal(tensor, there[name])
    with ckpt_tools.safe_open(f"{url}/healthy-run/step-02000.pt", framework="np") as f:
        name = next(iter(f.keys()))
        np.testing.assert_array_equal(f.get_slice(name)[:1], here[name][:1])


def test_functions_take_urls(url):
    assert not ckpt_tools.gate(f"{url}/collapse-run/step-04000.pt")
    assert ckpt_tools.inspect(f"{url}/collapse-run/step-04000.pt").verdict == ckpt_tools.inspect(COLLAPSED).verdict


def test_what_is_missing_differs_from_what_is_locked(url):
    with pytest.raises(FileNotFoundError):
        ckpt_tools.load(f"{url}/none.pt", framework="np")
    with pytest.raises(ckpt_tools.UnreadableError, match="denies access") as locked:
        ckpt_tools.load(f"{url}/locked.pt", framework="np")
    assert not isinstance(locked.value, FileNotFoundError)
    for function in [ckpt_tools.inspect, lambda place: ckpt_tools.diff(place, place)]:
        with pytest.raises(ckpt_tools.UnreadableError, match="denies access") as locked:
            function(f"{url}/locked.pt")
        assert locked.value.path == f"{url}/locked.pt" and not isinstance(locked.value, FileNotFoundError)


def test_a_url_that_leads_round_does_not_make_its_host_unreadable(url):
    with pytest.raises(ckpt_tools.UnreadableError, match="redirects"):
        ckpt_tools.load(f"{url}/round.pt")
    assert ckpt_tools.load(f"{url}/healthy-run/step-02000.pt")


def test_what_a_server_fails_to_send_is_not_corrupt(tmp_path):
    data = np.random.default_rng(0).normal(size=(4, 1 << 19)).astype(np.float32)
    safetensors.numpy.save_file({f"w{i}": row for i, row in enumerate(data)}, tmp_path / "m.safetensors")

    class Failing(Ranges):
        def do_GET(self):
            whole = (tmp_path / "m.safetensors").read_bytes()
            start, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            if self.path != "/m.safetensors":
                return self.answer(404, b"")
            if start > len(whole) // 2:
                return self.answer(500, b"")
            part = whole[start : end + 1]
            self.answer(206, part, f"bytes {start}-{start + len(part) - 1}/{len(whole)}")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(ckpt_tools.UnreadableError, match="answers 500.*tensors were not read"):
        ckpt_tools.inspect(f"http://127.0.0.1:{server.server_port}/m.safetensors", cache=False)
    server.shutdown()
    server.server_close()


SLOW = """
import sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import ckpt_tools

data = open(sys.argv[1], "rb").read()
stalled = threading.Event()

class Stalls(BaseHTTPRequestHandler):
    def do_GET(self):
        start, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = data[start : end + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
        self.end_headers()
        if opened.is_set():
            stalled.set()
            time.sleep(600)
        self.wfile.write(part)

    def log_message(self, *_):
        pass

opened = threading.Event()
server = ThreadingHTTPServer(("127.0.0.1", 0), Stalls)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
f = ckpt_tools.safe_open(f"http://127.0.0.1:{server.server_port}/big.safetensors", framework="np")
opened.set()
threading.Thread(target=lambda: (stalled.wait(), print("stalled", flush=True)), daemon=True).start()
try:
    f.get_tensor("big")
except KeyboardInterrupt:
    print("interrupted", flush=True)
    # The thread that fetches is still waiting.
    import os
    os._exit(0)
"""


def test_ctrl_c_ends_waiting_for_a_server(tmp_path):
    big = tmp_path / "big.safetensors"
    safetensors.numpy.save_file({"big": np.zeros((1024, 1024), np.float32)}, big)
    process = subprocess.Popen([sys.executable, "-c", SLOW, big], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "stalled\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert out == "interrupted\n"
    finally:
        process.kill()
