"""One owner for a directory, a clean end on SIGTERM, callers that hang up."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from pathlib import Path

import httpx
import psutil

from tests.faults.disks import small_disk
from tests.faults.test_disk_full import eventually
from tests.servers import Server, client_of, run, serving, start


def test_g13_a_second_server_on_a_directory_is_refused_by_a_sentence(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        second = run(tmp_path / "data", "serve", "--port", "0", LANG="en_US.UTF-8")
        assert second.returncode == 2
        assert server.address in second.stderr
        assert "Stop it or name another" in second.stderr
        assert server.ask("Привет")["outcome"] == "answered"


def test_g13_the_kernel_drops_the_lock_of_a_killed_server(tmp_path: Path) -> None:
    first = start(tmp_path / "data")
    told = first.ask("Привет")
    first.kill()
    first.client.close()
    with serving(tmp_path / "data") as second:
        assert second.rate(told["log_id"], 5).json()["status"] == "stored"


def test_g13_an_unwritable_directory_is_refused_by_a_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = run(disk / "data", "serve", "--port", "0", LANG="en_US.UTF-8")
        assert done.returncode == 2
        assert "cannot be written" in done.stderr
        assert "Traceback" not in done.stderr


def test_g14_sigterm_under_load_finishes_what_it_took_and_leaves_cleanly(tmp_path: Path) -> None:
    server = start(tmp_path / "data")
    acknowledged: list[str] = []
    failures: list[int] = []

    def ask(number: int) -> None:
        with client_of(server.address) as client:
            for i in range(10_000):
                try:
                    reply = client.post("/api/voice/process", json={"message": f"{number} {i}?"})
                except httpx.TransportError:
                    return
                if reply.status_code == 200:
                    acknowledged.append(reply.json()["log_id"])
                else:
                    failures.append(reply.status_code)
                    return

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(acknowledged) > 60)
    assert server.stop() == 0, server.log
    for thread in threads:
        thread.join(30)
    server.client.close()
    assert set(failures) <= {503}
    assert '"event": "stopped"' in server.log
    slot = tmp_path / "data" / "journal" / "0"
    assert not (slot / "set-aside").exists()
    with serving(tmp_path / "data") as again:
        stats = again.stats()
        assert stats["total_interactions"] >= len(acknowledged)
        assert again.health()["storage"]["missing_records"] == 0
        for log_id in acknowledged:
            assert again.rate(log_id, 4).json()["status"] == "stored"
        assert again.stats()["rated_interactions"] == len(set(acknowledged))


def send_and_hang_up(server: Server, path: str, kind: str, body: bytes, sent: int) -> None:
    """A request of whose body ``sent`` bytes come before its caller is gone."""
    host, port = server.address.removeprefix("http://").split(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(head + body[:sent])


def test_g05_callers_that_hang_up_leak_nothing_and_tear_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.wait_for_meaning()
        process = psutil.Process(server.process.pid)
        before = (len(process.net_connections("tcp")), process.num_fds(), process.num_threads())
        for i in range(60):
            body = json.dumps({"message": f"кто там {i}?"}).encode()
            sent = len(body) if i % 2 else len(body) // 2
            send_and_hang_up(server, "/api/voice/process", "application/json", body, sent)
        send_and_hang_up(
            server, "/console/answers", "application/x-www-form-urlencoded", b"answer=a", 4
        )
        kept = server.ask("последний?")

        def settled() -> bool:
            now = (len(process.net_connections("tcp")), process.num_fds(), process.num_threads())
            return now[0] <= before[0] and now[1] <= before[1] + 2 and now[2] <= before[2] + 2

        eventually(settled)
        assert "request failed" not in server.log
        assert 'status="500"' not in server.client.get("/api/metrics").text
        total = server.stats()["total_interactions"]
        assert 1 <= total <= 31  # half of the bodies never came whole
        assert server.rate(kept["log_id"], 5).status_code == 200
        server.kill()
    with serving(tmp_path / "data") as again:
        # A question whose caller left may have been answered after the count, never before it.
        assert total <= again.stats()["total_interactions"] <= 31
        assert again.health()["storage"]["missing_records"] == 0
