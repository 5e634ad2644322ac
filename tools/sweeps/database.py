"""Postgres, on a port and in a folder of its own, and what it counted."""

import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

from garage import free_port

from .machine import Missing, install_packages
from .scene import Wrong

USER, DATABASE = "tester", "sapwood"


def program(name):
    """Debian has them in no folder of the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), *os.get_exec_path()]))
    if found is None:
        install_packages(["postgresql"])
        return program(name)
    return found


def as_user():
    """Postgres does not run as root."""
    if os.geteuid() != 0:
        return [], None
    names = {user.pw_name: user for user in pwd.getpwall()}
    user = names.get("postgres") or names.get("nobody")
    if user is None:
        raise Missing("there is no user as who Postgres could run")
    return ["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"], user


class Postgres:
    """What it committed survives a crash of the machine, as on a server that is operated."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.port, self.server = free_port(), None
        before, user = as_user()
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
            # The folders above are the torture's own.
            os.chmod(folder.parent, 0o711)
        self.before = before
        self.run("initdb", "--pgdata=data", "--auth=trust", f"--username={USER}", "--encoding=UTF8", "--no-sync")
        with open(folder.parent / "postgres.log", "wb") as log:
            self.server = subprocess.Popen(
                [*before, program("postgres"), "-D", "data", "-p", str(self.port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1",
                 "-c", "max_connections=200", "-c", "shared_preload_libraries=pg_stat_statements"],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + 60
        while subprocess.run([program("pg_isready"), "-q", "-h", str(folder), "-p", str(self.port)]).returncode != 0:
            if self.server.poll() is not None or time.monotonic() > until:
                raise Missing(f"Postgres does not start: {(folder.parent / 'postgres.log').read_text()[-1000:]}")
            time.sleep(0.05)
        self.ask(f"CREATE DATABASE {DATABASE}")
        self.ask("CREATE EXTENSION pg_stat_statements")

    def run(self, name, *words):
        done = subprocess.run([*self.before, program(name), *words], cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise Missing(f"{name}: {done.stderr[-1000:]}")

    @property
    def url(self):
        return f"postgres://{USER}@127.0.0.1:{self.port}/{DATABASE}?sslmode=disable"

    def ask(self, statement, database="postgres"):
        """Rows of texts. Asked in another database than that of the sessions, so that nothing of it is counted there."""
        done = subprocess.run([program("psql"), "-h", self.folder, "-p", str(self.port), "-U", USER, "-d", database, "-XAtq", "-F", "\t",
                               "-c", statement], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise Wrong(f"{statement}: {done.stderr}")
        return [line.split("\t") for line in done.stdout.splitlines()]

    def statements(self):
        """How many ran so far: all, and those that end a transaction that changed something."""
        of = f"dbid = (SELECT oid FROM pg_database WHERE datname = '{DATABASE}')"
        rows = self.ask(f"SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE {of}")
        return int(rows[0][0])

    def most(self, count=12):
        """The statements that took longest together: calls, milliseconds, text."""
        of = f"dbid = (SELECT oid FROM pg_database WHERE datname = '{DATABASE}')"
        return self.ask(f"""SELECT calls, round(total_exec_time::numeric), round(mean_exec_time::numeric, 3),
            left(regexp_replace(query, '\\s+', ' ', 'g'), 90) FROM pg_stat_statements WHERE {of} ORDER BY total_exec_time DESC LIMIT {count}""")

    def waits(self):
        """What its connections do now."""
        return self.ask(f"""SELECT coalesce(wait_event_type || ':' || wait_event, 'CPU'), count(*) FROM pg_stat_activity
            WHERE datname = '{DATABASE}' AND state <> 'idle' GROUP BY 1""")

    def bytes_of_tables(self):
        """Bytes of tables and their indices, and rows, by table."""
        rows = self.ask("""SELECT pg_class.relname, pg_total_relation_size(oid), n_live_tup FROM pg_class
            JOIN pg_stat_user_tables ON relid = oid WHERE pg_class.relname LIKE 'sapwood_%' ORDER BY 1""", DATABASE)
        return {name: (int(size), int(rows)) for name, size, rows in rows}

    def processes(self):
        """All of it."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text().split()
        return [self.server.pid, *map(int, children)]

    def close(self):
        if self.server is not None:
            # As a crash: nobody needs what it has.
            self.server.send_signal(3)
            self.server.wait()
            self.server = None
