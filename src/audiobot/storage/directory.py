"""The data directory: one owner at a time, its key set, and the note of where its server is."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from audiobot.domain import utc_now
from audiobot.entropy import random_bits
from audiobot.errors import SetupError
from audiobot.storage.journal import replace_file

LEAST_FREE_BYTES: Final = 4 << 20
"""Below this much free space nothing new is accepted: draining and the index need the rest."""

_LOCK: Final = "lock"
_NOTE: Final = "server.json"
_LOCK_TRIES: Final = 20
_LOCK_PAUSE_SECONDS: Final = 0.01

_TAG_BITS: Final = 40
_RANDOM_BITS: Final = 34
EPHEMERAL: Final = frozenset({"tmpfs", "ramfs", "overlay"})


class ServerNote(msgspec.Struct, frozen=True):
    """Where the server that owns a directory can be reached by commands on this machine.

    ``token`` lasts as long as the process and makes its bearer an operator. ``device`` and
    ``inode`` are the directory's: in a copy of it the note is another's.
    """

    address: str
    pid: int
    token: str
    device: int
    inode: int


class DataDirectory:
    """A directory that belongs to this process until ``release``, by a lock the kernel drops.

    Made for its owner's eyes alone when it is not there; one that is there keeps its mode.
    ``since`` is the moment from which on it is ours; workers that are forked later know it too.
    Raises ``SetupError`` when it is another's, unwritable or full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.since = utc_now()
        try:
            if not path.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir(0o700, exist_ok=True)
            self._fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not os.access(path, os.W_OK | os.X_OK):
                raise PermissionError("permission denied")
        except OSError as error:
            cause = error.strerror or str(error)
            raise SetupError("data_dir_unwritable", path=path, cause=cause) from error
        if not self._lock():
            note = read_server_note(path)
            owner = f"{note.address}, pid {note.pid}" if note else "its address is not known"
            os.close(self._fd)
            raise SetupError("data_dir_in_use", path=path, owner=owner)
        (path / _NOTE).unlink(missing_ok=True)  # a killed server's, or one that came with a copy
        if self.free_bytes() < LEAST_FREE_BYTES:
            self.release()
            raise SetupError("data_dir_full", path=path, need=LEAST_FREE_BYTES >> 20)

    def _lock(self) -> bool:
        """Own the directory; a command that just looks whether it is owned is waited for."""
        for _ in range(_LOCK_TRIES):
            if _flock(self._fd, fcntl.LOCK_EX):
                return True
            time.sleep(_LOCK_PAUSE_SECONDS)
        return False

    def release(self) -> None:
        """Give the directory back; the note of the server goes first."""
        (self.path / _NOTE).unlink(missing_ok=True)
        os.close(self._fd)

    def free_bytes(self) -> int:
        """Bytes that this process may still write on the directory's file system."""
        usage = os.fstatvfs(self._fd)
        return usage.f_bavail * usage.f_frsize

    def announce(self, address: str, token: str) -> None:
        """Leave a note of the server for commands on this machine."""
        place = self.path.stat()
        note = ServerNote(address, os.getpid(), token, place.st_dev, place.st_ino)
        replace_file(self.path / _NOTE, msgspec.json.encode(note))

    @property
    def ephemeral(self) -> bool:
        """True when the file system under the directory goes with the machine or container."""
        return file_system(self.path) in EPHEMERAL

    @property
    def open_to_others(self) -> bool:
        """True when other users of this machine may look into the directory."""
        return bool(self.path.stat().st_mode & 0o077)


def read_server_note(path: Path) -> ServerNote | None:
    """The note of the server that owns ``path``; None when none does, whatever lies there.

    A note outlives a killed server and goes along with a copy, and its process id may be another
    program's by now: what counts is the lock of this very directory.
    """
    try:
        note = msgspec.json.decode((path / _NOTE).read_bytes(), type=ServerNote)
        place = path.stat()
        fd = os.open(path / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, msgspec.DecodeError):
        return None
    try:
        owned = not _flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)
    here = (note.device, note.inode) == (place.st_dev, place.st_ino)
    return note if owned and here else None


def lock_slot(slot: Path, seconds: float = 0.0) -> int | None:
    """Own one journal's directory: the descriptor that holds its lock, None if another has it.

    The kernel drops the lock with the process; it is tried again for ``seconds``.
    """
    fd = os.open(slot / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + seconds
    while not _flock(fd, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            os.close(fd)
            return None
        time.sleep(_LOCK_PAUSE_SECONDS)
    return fd


def _flock(fd: int, kind: int) -> bool:
    """Take the lock if it is free."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def file_system(path: Path) -> str:
    """The type of the file system that holds ``path`` (``ext4``, ``tmpfs`` …), or ``unknown``."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return kind
    resolved = str(path.resolve())
    for line in mounts.splitlines():
        _, point, this_kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, this_kind
    return kind


class KeySet:
    """The keys derived from ``AUDIOBOT_SECRET``, or from a secret made and kept here.

    Every id key that was ever in use stays in the set, so an id issued under an earlier secret
    is still known as genuine. Only derived keys are written, never the secret itself.
    """

    def __init__(self, path: Path, secret: str | None) -> None:
        kept = json.loads(path.read_text()) if path.exists() else {}
        made: str | None = kept.get("secret")
        if secret is None and made is None:
            made = secrets.token_hex(32)
        root = (secret or made or "").encode()
        id_key = self._derive(root, "dialogue-id").hex()
        ids = [id_key, *(key for key in kept.get("ids", []) if key != id_key)]
        self._path, self._made = path, made
        if {"secret": made, "ids": ids} != kept:
            self._keep(ids)
        self.ids = [bytes.fromhex(key) for key in ids]
        self.raters = self._derive(root, "raters")

    def _keep(self, ids: list[str]) -> None:
        replace_file(self._path, json.dumps({"secret": self._made, "ids": ids}).encode())

    def merge(self, keys: list[bytes]) -> None:
        """Know every replica's keys too; new ids go on being made with our own."""
        every = list(dict.fromkeys([*self.ids, *keys]))
        if every != self.ids:
            self.ids = every
            # A full disk keeps nobody from PostgreSQL, which has them all and tells them again.
            with contextlib.suppress(OSError):
                self._keep([key.hex() for key in every])

    @staticmethod
    def _derive(root: bytes, purpose: str) -> bytes:
        return hmac.digest(root, f"audiobot/{purpose}/1".encode(), hashlib.sha256)


class DialogueIds:
    """Ids that prove themselves: UUIDv8 (RFC 9562) of 48 bits of time, 34 random, 40 of HMAC.

    Milliseconds lead, so ids sort by age and index well. A guess passes with 2**-40.
    """

    def __init__(self, keys: list[bytes]) -> None:
        self._keys = keys

    def accept(self, keys: list[bytes]) -> None:
        """Know ids made under these keys; the first one goes on making new ones."""
        self._keys = [self._keys[0], *(key for key in keys if key != self._keys[0])]

    def issue(self) -> UUID:
        """A new id, checked by the first key."""
        milliseconds = int(utc_now().timestamp() * 1_000) & ((1 << 48) - 1)
        body = (milliseconds << _RANDOM_BITS) | random_bits(_RANDOM_BITS)
        return _pack(body, self._tag(self._keys[0], body))

    def genuine(self, log_id: UUID) -> bool:
        """True when AudioBot issued this id, under any key of the set."""
        if log_id.version != 8:
            return False
        body, tag = _unpack(log_id)
        return any(hmac.compare_digest(self._tag(key, body), tag) for key in self._keys)

    @staticmethod
    def _tag(key: bytes, body: int) -> bytes:
        # Not hmac.digest: that lets go of the interpreter's lock for a microsecond's work.
        return hmac.new(key, body.to_bytes(11, "big"), hashlib.sha256).digest()[: _TAG_BITS // 8]


def _pack(body: int, tag: bytes) -> UUID:
    """122 free bits around the version and variant bits of RFC 9562."""
    free = (body << _TAG_BITS) | int.from_bytes(tag, "big")
    high, mid, low = free >> 74, (free >> 62) & 0xFFF, free & ((1 << 62) - 1)
    return UUID(int=(high << 80) | (8 << 76) | (mid << 64) | (0b10 << 62) | low)


def _unpack(log_id: UUID) -> tuple[int, bytes]:
    value = log_id.int
    free = ((value >> 80) << 74) | (((value >> 64) & 0xFFF) << 62) | (value & ((1 << 62) - 1))
    tag = (free & ((1 << _TAG_BITS) - 1)).to_bytes(_TAG_BITS // 8, "big")
    return free >> _TAG_BITS, tag
