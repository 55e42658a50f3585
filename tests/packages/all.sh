#!/bin/bash
# All tests of what `make packages` has made, as root: each binary by its main job in an empty root and by SFTP, then each package.
set -euo pipefail
cd "$(dirname "$0")/../.."
. .packaging/toolchain.sh
for tool in qemu-aarch64-static:qemu-user-static debootstrap:debootstrap skopeo:skopeo sshd:openssh-server ssh-keygen:openssh-client; do
  need "${tool%%:*}" "${tool##*:}"
done
out=target/release-files
for binary in "$out"/harmonylite-*-linux-*; do
  case $binary in
  *-linux-"$(uname -m)"*) emulator="" ;;
  *-linux-armv7*) emulator=$(command -v qemu-arm-static) ;;
  *) emulator=$(command -v qemu-"$(sed 's/.*-linux-//; s/-.*//' <<< "$binary")"-static) ;;
  esac
  python3 -B tests/packages/root.py "$binary" $emulator
  case $binary in
  *-without-sftp) python3 -B tests/packages/root.py --lacks-sftp "$binary" $emulator ;;
  *) python3 -B tests/packages/sftp.py "$binary" $emulator ;;
  esac
done
python3 -B tests/packages/debian.py target/packages/debian "$out"/*.deb
python3 -B tests/packages/others.py "$out"/*.ipk "$out"/*-image-*.tar
# What they cost, at last: the budgets.
python3 -B tests/packages/sizes.py "$out"
own=$(ls "$out"/harmonylite-*-linux-"$(uname -m)" 2>/dev/null || true)
[ -z "$own" ] || python3 -B tests/packages/idle.py "$own"
