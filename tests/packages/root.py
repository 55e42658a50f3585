"""A directory as the whole file system of the program, and the main job in it: two nodes replicate, a snapshot is made, a third
node starts from it, a restored file equals all of them. The broker runs outside; root is needed for chroot."""

import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

WAIT = 60
REPOSITORY = pathlib.Path(__file__).parents[2]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, condition):
    until = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > until:
            sys.exit(f"waited {WAIT} s in vain: {what}")
        time.sleep(0.05)


class Process:
    """A process that ends with the `with` block."""

    def __init__(self, *command, **options):
        self.log = tempfile.NamedTemporaryFile("w+")
        self.child = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, **options)

    def said(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def stop(self):
        """Asks it to end, and tells its exit code."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()


def nats_server():
    ours = REPOSITORY / "build/venv/bin/nats-server"
    return str(ours) if ours.exists() else shutil.which("nats-server", path=os.environ["PATH"] + ":/usr/sbin")


class Broker(Process):
    def __init__(self, store):
        self.port = free_port()
        super().__init__(nats_server(), "-js", "-sd", store, "-a", "127.0.0.1", "-p", str(self.port))
        self.url = f"nats://127.0.0.1:{self.port}"
        wait_for("nats-server", lambda: "Server is ready" in self.said())


class Root:
    """The program in a root. `emulator`: a static qemu-user of this machine, which is put into the root as well."""

    def __init__(self, folder, program="/harmonylite", emulator=None, user=None):
        self.folder = pathlib.Path(folder)
        self.prefix = ["chroot"] + ([f"--userspec={user}"] if user else []) + [str(folder)]
        if emulator:
            shutil.copy2(emulator, self.folder / "emulator")
            self.prefix += ["/emulator"]
        self.prefix += [program]

    def start(self, *arguments, **options):
        return Process(*self.prefix, *arguments, **options)

    def run(self, *arguments, code=0):
        done = subprocess.run((*self.prefix, *arguments), capture_output=True, text=True, timeout=120)
        if done.returncode != code:
            sys.exit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout


def rows(path):
    with sqlite3.connect(path, timeout=10) as database:
        return database.execute("SELECT * FROM books ORDER BY id").fetchall()


def write(path, *statements):
    database = sqlite3.connect(path, timeout=10)
    with database:
        for statement in statements:
            database.execute(statement)
    database.close()


def main_job(root, data="/data", owner=None):
    """Does it in the folder `data` of the root."""
    inside = root.folder / data.lstrip("/")
    path = lambda number: inside / str(number) / "app.db"

    def configure(number, url):
        path(number).parent.mkdir(parents=True)
        config = path(number).parent / "config.toml"
        config.write_text(f'db_path = "{data}/{number}/app.db"\nnode_id = {number}\n[nats]\nurls = ["{url}"]\n')
        if number < 3:
            schema = "CREATE TABLE books(id INTEGER PRIMARY KEY, title TEXT)"
            write(path(number), "PRAGMA journal_mode = WAL", schema)
        if owner is not None:
            for file in (path(number).parent, *path(number).parent.iterdir()):
                os.chown(file, owner, owner)
        return f"{data}/{number}/config.toml"

    def ready(node):
        wait_for(f"caught up\n{node.said()}", lambda: "caught up" in node.said() or node.child.poll() is not None)
        if node.child.poll() is not None:
            sys.exit(f"the node ended: {node.said()}")

    with tempfile.TemporaryDirectory() as store, Broker(store) as broker:
        first, second, third = (configure(number, broker.url) for number in (1, 2, 3))
        with root.start("-config", first) as one, root.start("-config", second) as two:
            ready(one)
            ready(two)
            write(path(1), "INSERT INTO books(title) VALUES('Momo'), ('Solaris')")
            wait_for("rows on node 2", lambda: rows(path(2)) == [(1, "Momo"), (2, "Solaris")])
            write(path(2), "DELETE FROM books WHERE id = 1", "INSERT INTO books VALUES(7, 'Kindred')")
            wait_for("rows on node 1", lambda: rows(path(1)) == [(2, "Solaris"), (7, "Kindred")])
            root.run("-config", first, "-save-snapshot")
            write(path(1), "INSERT INTO books VALUES(8, 'Emma')")
            with root.start("-config", third) as three:
                ready(three)
                wait_for("rows on node 3", lambda: path(3).exists() and rows(path(3)) == rows(path(1)))
                root.run("-config", third, "-restore-snapshot", "snapshot.db", "-to", f"{data}/3/restored.db")
                restored = rows(path(3).parent / "restored.db")
                codes = [node.stop() for node in (three, two, one)]
        if restored != [(2, "Solaris"), (7, "Kindred")] or codes != [0, 0, 0]:
            sys.exit(f"restored {restored}, exit codes {codes}")


def main(binary, emulator=None):
    with tempfile.TemporaryDirectory() as folder:
        root = Root(folder, emulator=emulator)
        shutil.copy2(binary, root.folder / "harmonylite")
        (root.folder / "data").mkdir()
        print(f"{binary}: {root.run('-version').strip()}", end=", ", flush=True)
        main_job(root)
        print("replicates, makes a snapshot and restores it in an empty root")


def lacks_sftp(binary, *emulator):
    """A binary without SFTP refuses a configuration that names it, in one line."""
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "config.toml")
        config.write_text(f'db_path = "{folder}/app.db"\nnode_id = 1\n[snapshot]\nstore = "sftp"\n')
        done = subprocess.run((*emulator, binary, "-config", config), capture_output=True, text=True, timeout=30)
    lines = [line for line in done.stderr.splitlines() if "store-sftp" in line]
    if done.returncode != 2 or len(lines) != 1 or "snapshot.store" not in lines[0]:
        sys.exit(f"exit code {done.returncode}: {done.stdout}{done.stderr}")
    print(f"{binary}: says that it lacks SFTP")


if __name__ == "__main__":
    if sys.argv[1] == "--lacks-sftp":
        lacks_sftp(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
