"""What a daemon costs when nothing happens: memory, processor time, bytes written. `idle.py BINARY [SECONDS]`

The bars are those of the README: 8 MB resident, 0.1 % of a core, nothing written. Once with a broker elsewhere, once with its own."""

import pathlib
import subprocess
import sys
import tempfile
import time

from root import Broker, Process, free_port, nats_server, wait_for, write

BYTES, PERCENT = 8_000_000, 0.1


def memory(pid):
    found = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return {key: int(found[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon", "RssFile")}


def written(pid):
    return int(pathlib.Path(f"/proc/{pid}/io").read_text().split("write_bytes: ")[1].split()[0])


def children(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def threads(pid):
    """For each thread: how often it woke, and the nanoseconds that it ran."""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        woke = int((task / "status").read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])
        found[(task / "comm").read_text().strip(), task.name] = woke, int((task / "schedstat").read_text().split()[0])
    return found


def measure(binary, seconds, section):
    with tempfile.TemporaryDirectory() as folder:
        database = f"{folder}/app.db"
        write(database, "PRAGMA journal_mode = WAL", "CREATE TABLE books(id INTEGER PRIMARY KEY, title TEXT)",
              "INSERT INTO books(title) VALUES('Momo')")
        config = pathlib.Path(folder, "config.toml")
        config.write_text(f'db_path = "{database}"\nnode_id = 1\n[nats]\n{section}\n')
        with Process(binary, "-config", config) as node:
            wait_for("caught up", lambda: "caught up" in node.said())
            time.sleep(20)
            pid = node.child.pid
            before, wrote = threads(pid), written(pid)
            time.sleep(seconds)
            after, wrote = threads(pid), written(pid) - wrote
            held, none = memory(pid), (0, 0)
            costs = {name[0]: [(now - then) / seconds for now, then in zip(cost, before.get(name, none))] for name, cost in after.items()}
            percent = sum(ran for _, ran in costs.values()) / 1e7
            print(f"  resident {held['VmRSS'] / 1e6:.2f} MB (own {held['RssAnon'] / 1e6:.2f}, of files {held['RssFile'] / 1e6:.2f}), "
                  f"{percent:.3f} % of a core, {wrote} bytes written in {seconds} s")
            print("  wakes, and microseconds of work, a second: " + ", ".join(
                f"{name} {woke:.1f}/{ran / 1e3:.0f}" for name, (woke, ran) in sorted(costs.items(), key=lambda cost: -cost[1][1])))
            for child in children(pid):
                print(f"  its nats-server: resident {memory(child)['VmRSS'] / 1e6:.1f} MB")
            node.stop()
    return held["VmRSS"] <= BYTES and percent <= PERCENT and wrote == 0


def main(binary, seconds=120):
    with tempfile.TemporaryDirectory() as store, Broker(store) as broker:
        print("a broker elsewhere:")
        fine = measure(binary, int(seconds), f'urls = ["{broker.url}"]')
    print("a nats-server of its own:")
    fine &= measure(binary, int(seconds), f'urls = []\nserver_binary = "{nats_server()}"\nbind_address = "127.0.0.1:{free_port()}"')
    if not fine:
        sys.exit("over a bar")


if __name__ == "__main__":
    main(*sys.argv[1:])
