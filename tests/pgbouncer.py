"""A real PgBouncer in front of a cluster, in transaction mode, as many companies run it."""

from __future__ import annotations

import shutil
import time
from typing import Self

import psycopg

from tests.postgres import Cluster, Quarters
from tests.proxy import free_port

_CONFIGURATION = """
[databases]
* = host={to_host} port={to_port}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
admin_users = {owner}
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 1000
server_login_retry = {retry}
"""


def executable() -> str:
    """Where PgBouncer is; raises ``RuntimeError`` when there is none: nothing is skipped."""
    # Debian has it where the PATH of an ordinary user does not look.
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if found is None:
        raise RuntimeError(
            "no pgbouncer: the tests with a pooler in between need it "
            "(scripts/need-pgbouncer, or apt-get install pgbouncer)"
        )
    return found


class PgBouncer:
    """Listens on ``host`` and ``port``; the owner of the cluster's databases may log in.

    ``pool_size`` is the number of server connections for each database, ``retry`` (PgBouncer's
    default is 15) after how many seconds it knocks again at a server that was away. The database
    ``pgbouncer`` is its own console (``SHOW POOLS``; autocommit, simple queries).
    """

    def __init__(self, cluster: Cluster, pool_size: int = 5, retry: int = 15) -> None:
        self.host, self.port = "127.0.0.1", free_port()
        self._cluster = cluster
        program = executable()
        self._quarters = Quarters()
        self.log = self._quarters.path / "log"
        users = self._quarters.write("users", f'"{cluster.owner}" "{cluster.password}"\n')
        configuration = _CONFIGURATION.format(
            to_host=cluster.host,
            to_port=cluster.port,
            host=self.host,
            port=self.port,
            users=users,
            owner=cluster.owner,
            pool_size=pool_size,
            retry=retry,
        )
        self._process = self._quarters.spawn(
            self.log, program, self._quarters.write("pgbouncer.ini", configuration)
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.dsn("pgbouncer"), autocommit=True, connect_timeout=10).close()
                return
            except psycopg.OperationalError as reason:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = self.log.read_text(errors="replace")[-4000:]
                    raise RuntimeError(f"PgBouncer does not serve: {reason}\n{log}") from reason
                time.sleep(0.02)

    def dsn(self, database: str) -> str:
        """The owner's DSN of this database, by way of PgBouncer."""
        return self._cluster.dsn(database, host=self.host, port=self.port)

    def close(self) -> None:
        """End it and remove its directory."""
        self._process.terminate()
        self._process.wait(30)
        self._quarters.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
