"""A PostgreSQL server for tests: reached over a socket in its own folder, thrown away after."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "ledger"


def binaries() -> Path | None:
    """The folder of the server's programs: on the path, or where Debian puts the newest."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((one.parent for one in found), key=lambda one: int(one.parent.name), default=None)


@contextmanager
def server(programs: Path) -> Iterator[Path]:
    """Run a server; gives the folder of its socket."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-postgres-"))
    run_as: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        run_as = ["runuser", "-u", "postgres", "--"]

    def run(program: str, *arguments: str) -> None:
        command = [*run_as, str(programs / program), "-D", str(folder / "data"), *arguments]
        # Into a file: a pipe would stay open in the server, and be waited for.
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    try:
        run("initdb", "--auth=trust", f"--username={USER}", "--encoding=UTF8", "--no-sync")
        # Nothing here outlives the server, so nothing needs to reach the disk.
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -F"
        run("pg_ctl", "-w", "-o", options, "start")
        try:
            yield folder
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
        (folder.parent / f"{folder.name}.log").unlink(missing_ok=True)


def make_database(socket: Path, name: str) -> str:
    """Make an empty database; gives its URL."""
    import psycopg

    with psycopg.connect(host=str(socket), user=USER, dbname="postgres", autocommit=True) as made:
        made.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    return f"postgresql://{USER}@/{name}?host={socket}"
