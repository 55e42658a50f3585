#!/bin/bash
# Static binaries in target/release-files, with what goes with them: `release.sh [x86_64 | aarch64 | armv7]...`, all unless named.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- x86_64 aarch64 armv7
out=$PWD/target/release-files
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
mkdir -p "$out"
# Packages of earlier binaries would be tried as if they were of these.
rm -f "$out"/*.deb "$out"/*.ipk "$out"/*.tar "$out/SHA256SUMS"

build() ( # architecture, name of the file, features
  . .packaging/toolchain.sh
  toolchain "$1"
  case $3 in *default*) SMALL= ;; esac
  # Another script makes another OpenSSL, which cargo notices by the name.
  openssl=$PWD/target/cross/openssl-$TARGET-$(sha256sum < .packaging/openssl.sh | cut -c 1-8)
  bash .packaging/openssl.sh "$openssl"
  export OPENSSL_DIR=$openssl OPENSSL_STATIC=1 OPENSSL_NO_VENDOR=1
  cargo rustc --release --bin harmonylite --target "$TARGET" $FLAGS --no-default-features --features "$3" -- $LINKS $SMALL
  cp "target/$TARGET/release/harmonylite" "$2"
)

for arch in "$@"; do
  echo "== $arch"
  build "$arch" "$out/harmonylite-$version-linux-$arch" default,static
  build "$arch" "$out/harmonylite-$version-linux-$arch-without-sftp" store-s3,store-webdav
done

python3 -B tests/supply/third_party.py "$out/THIRD-PARTY"
python3 -B tests/supply/sbom.py "$out/harmonylite-$version.cdx.json"
(cd "$out" && sha256sum harmonylite-* THIRD-PARTY > SHA256SUMS)
ls -l "$out"
