"""A Postgres of the tests' own: a private cluster in a temporary directory, on a Unix socket only."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(4))


class Cluster:
    """A running Postgres that can be stopped and started again."""

    def __init__(self, binaries: Path, home: Path, user: str | None) -> None:
        self._binaries, self._home, self._user = binaries, home, user
        self.databases = 0

    def run(self, program: str, *arguments: str) -> None:
        """Run one of its programs, as the user who may."""
        done = subprocess.run(
            [str(self._binaries / program), *arguments],
            user=self._user,
            cwd=self._home,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout.decode()

    def start(self) -> None:
        options = f"-k {self._home} -c listen_addresses= -c fsync=off -c unix_socket_permissions=0777"
        # The server keeps the output it is given; a file, so that nobody waits for its end.
        self.run("pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")

    def database(self) -> str:
        """Make a fresh database; its URL."""
        self.databases += 1
        name = f"test{self.databases}"
        self.run("createdb", "-h", str(self._home), "-U", "offhook", name)
        return f"postgresql+asyncpg://offhook@/{name}?host={self._home}"


@pytest.fixture(scope="session")
def postgres_binaries() -> Path:
    """Where initdb and pg_ctl are."""
    pytest.importorskip("asyncpg", reason="asyncpg is not installed: pip install 'offhook[postgres]'")
    if not BINARIES:
        pytest.skip("Postgres is not installed: apt-get install postgresql")
    return BINARIES[-1]


@pytest.fixture(scope="session")
def postgres(postgres_binaries: Path) -> Iterator[Cluster]:
    """A cluster for all tests of this process; each takes a database of its own."""
    with _cluster(postgres_binaries) as cluster:
        yield cluster


@pytest.fixture
def own_postgres(postgres_binaries: Path) -> Iterator[Cluster]:
    """A cluster of one test's own, to be stopped and started."""
    with _cluster(postgres_binaries) as cluster:
        yield cluster


@contextmanager
def _cluster(binaries: Path) -> Iterator[Cluster]:
    user = None
    if os.geteuid() == 0:  # Postgres refuses to run as root
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in known else "nobody"
    home = Path(tempfile.mkdtemp(prefix="offhook-pg-"))  # a short path: socket names have 107 bytes
    if user is not None:
        shutil.chown(home, user)
    cluster = Cluster(binaries, home, user)
    try:
        cluster.run("initdb", "-D", "data", "-U", "offhook", "--auth=trust", "--no-sync", "-E", "UTF8")
        cluster.start()
        yield cluster
    finally:
        if (home / "data" / "postmaster.pid").exists():
            cluster.stop()
        shutil.rmtree(home)


@pytest.fixture
def postgres_url(postgres: Cluster) -> str:
    """A fresh, empty Postgres database."""
    return postgres.database()
