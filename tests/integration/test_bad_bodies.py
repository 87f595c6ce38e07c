"""Bodies and heads that are not even a request: refused early, nothing stored, never a 500."""

from __future__ import annotations

import gzip
import json
from contextlib import closing

import pytest

from tests.integration.raw import (
    FEEDBACK,
    MARK,
    PROCESS,
    assert_error,
    connect,
    good_body,
    head,
    post_json,
    read_answer,
    send,
    send_until_answered,
)
from tests.servers import Server

POSTS = [PROCESS, FEEDBACK]
JSON = {"Content-Type": "application/json"}

pytestmark = pytest.mark.usefixtures("nothing_stored")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "sent", ["[]", "null", "5", "true", f'"{MARK}"', f'[{{"message": "{MARK}"}}]']
)
def test_a_body_that_is_json_but_no_object_is_422(shared: Server, path: str, sent: str) -> None:
    response = shared.client.post(path, content=sent.encode(), headers=JSON)
    assert_error(response, 422, "body_not_object")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{",
        b'{"message": "%b"' % MARK.encode(),
        b"{'message': '%b'}" % MARK.encode(),
        b"message=%b" % MARK.encode(),
        b'{"message": "\xff\xfe%b", "log_id": "\xff", "rating": 5}' % MARK.encode(),
        b'{"message": "\xed\xa0\x80", "log_id": "\xed\xa0\x80", "rating": 5}',
        b'{"message": "\xc0\x80"}',
        b'{"message": "\xf5\x80\x80\x80"}',
        b'{"message": "a\x00b"}',
        b'{"message": "a\nb"}',
        b'{"message": "\\x41"}',
        b'{"message": "\\u12"}',
        b'{"message": "a"} b',
        b'{"message": "a",}',
        b'{"message": "hello", "x": NaN}',
        b'{"message": "hello", "x": Infinity}',
        b'{"log_id": "a", "rating": NaN}',
        b'{"log_id": "a", "rating": 05}',
        b'\xef\xbb\xbf{"message": "hello"}',
        '{"message": "hello"}'.encode("utf-16"),
        '{"message": "привет"}'.encode("cp1251"),
        b"[" * 100_000,
        b"[" * 60_000 + b"]" * 60_000,
        b"\x00" * 100,
    ],
    ids=lambda sent: repr(sent[:24]),
)
def test_what_is_not_json_in_utf8_is_400(shared: Server, path: str, sent: bytes) -> None:
    assert_error(shared.client.post(path, content=sent, headers=JSON), 400, "json_malformed")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("depth", [200, 1_000, 60_000])
def test_a_deeply_nested_field_is_no_server_error(
    shared: Server, log_id: str, path: str, depth: int
) -> None:
    field = "message" if path == PROCESS else "rating"
    good = json.dumps(good_body(path, log_id))[:-1]
    sent = f'{good}, "{field}": {"[" * depth}{"]" * depth}}}'.encode()
    assert_error(shared.client.post(path, content=sent, headers=JSON), {400, 422})


def test_100_000_levels_of_objects_are_refused(shared: Server) -> None:
    sent = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    assert_error(shared.client.post(PROCESS, content=sent, headers=JSON), {400, 413})


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "application/json; charset=utf-16",
        "application/json; charset=windows-1251",
        "application/json, text/plain",
        f"{MARK[:7]}/json",
        "json",
        "",
    ],
)
def test_another_content_type_is_415(shared: Server, log_id: str, path: str, kind: str) -> None:
    sent = json.dumps(good_body(path, log_id)).encode()
    response = shared.client.post(path, content=sent, headers={"Content-Type": kind})
    assert_error(response, 415, "content_type")


@pytest.mark.parametrize("path", POSTS)
def test_no_content_type_and_a_form_are_415(shared: Server, log_id: str, path: str) -> None:
    sent = json.dumps(good_body(path, log_id)).encode()
    bare = send(shared, head(path, f"Content-Length: {len(sent)}".encode()) + sent)
    assert_error(bare, 415, "content_type")
    assert_error(shared.client.post(path, data={"message": MARK}), 415, "content_type")
    files = {"message": ("a.txt", MARK.encode())}
    assert_error(shared.client.post(path, files=files), 415, "content_type")


@pytest.mark.parametrize("path", POSTS)
def test_a_compressed_body_is_refused_and_never_unpacked(
    shared: Server, log_id: str, path: str
) -> None:
    bomb = gzip.compress(json.dumps(good_body(path, log_id)).encode())
    headers = {**JSON, "Content-Encoding": "gzip"}
    assert_error(shared.client.post(path, content=bomb, headers=headers), {400, 415})


@pytest.mark.parametrize("path", POSTS)
def test_a_10_mb_body_is_refused_by_its_declared_size_before_a_byte_of_it_is_sent(
    shared: Server, path: str
) -> None:
    with closing(connect(shared)) as connection:
        connection.sendall(
            head(path, b"Content-Type: application/json", b"Content-Length: 10485760")
        )
        assert_error(read_answer(connection), 413, "body_too_large")


@pytest.mark.parametrize("path", POSTS)
def test_a_10_mb_body_without_a_declared_size_is_refused_before_it_is_read_whole(
    shared: Server, path: str
) -> None:
    start = head(path, b"Content-Type: application/json", b"Transfer-Encoding: chunked")
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    sent, answer = send_until_answered(shared, start, piece, 10 << 20)
    assert_error(answer, 413, "body_too_large")
    assert sent < 8 << 20


@pytest.mark.parametrize("length", ["99999999999999999999999999", "18446744073709551616", "131073"])
def test_a_monstrous_declared_size_is_refused(shared: Server, length: str) -> None:
    request = head(PROCESS, b"Content-Type: application/json", f"Content-Length: {length}".encode())
    assert send(shared, request).status in {400, 413}


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: -1"],
        [b"Content-Length: abc"],
        [b"Content-Length: \xb2"],
        [b"Content-Length: 5", b"Content-Length: 6"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
        [b"X-Any: a\x00b", b"Content-Length: 0"],
        [b"Cookie: audiobot_rater=\x00", b"Content-Length: 0"],
    ],
)
def test_a_head_that_breaks_http_is_400(shared: Server, lines: list[bytes]) -> None:
    request = head(PROCESS, b"Content-Type: application/json", *lines)
    assert 400 <= send(shared, request + b"5\r\nhello\r\n0\r\n\r\n").status < 500


@pytest.mark.parametrize(
    "line",
    [
        b"Cookie: audiobot_rater=%b.forged" % MARK[:7].encode(),
        b"Cookie: audiobot_rater=\xff\xfe; =; ;;",
        b"Accept-Language: \xff\xfe, en;q=zero, ;;;q=,,",
        b"Accept-Language: " + b"en," * 5_000,
        b"Authorization: Bearer \xff\xfe",
        b"Authorization: " + b"x" * 8_000,
        b"X-Forwarded-For: \xff, 1.2.3, ::ffff:1, %",
        b"Origin: \xff",
        b"Host: \xff",
    ],
)
def test_garbage_in_headers_is_no_server_error(shared: Server, log_id: str, line: bytes) -> None:
    sent = json.dumps({"log_id": log_id, "rating": 9}).encode()
    assert 400 <= post_json(shared, FEEDBACK, sent, line).status < 500
    request = head("/api/learning/stats", line, method="GET")
    assert send(shared, request, "GET").status in {200, 400, 401}


def test_a_client_that_hangs_up_in_the_middle_of_its_body_stores_nothing_and_counts_no_500(
    shared: Server,
) -> None:
    for path in POSTS:
        with closing(connect(shared)) as connection:
            length = b"Content-Length: 1000"
            connection.sendall(head(path, b"Content-Type: application/json", length) + b'{"mess')
    assert shared.client.get("/api/ready").status_code == 200
    assert 'status="500"' not in shared.client.get("/api/metrics").text
    assert "request failed" not in shared.log


def test_the_server_answers_others_while_bodies_trickle_in(shared: Server) -> None:
    with closing(connect(shared)) as slow:
        slow.sendall(head(PROCESS, b"Content-Type: application/json", b"Content-Length: 15"))
        for byte in b'{"message": ""':
            slow.sendall(bytes([byte]))
            assert shared.client.get("/api/ready").status_code == 200
        slow.sendall(b"}")
        assert_error(read_answer(slow), 422, "text_blank")
