# What compiles for one architecture with musl, on any Debian. To be sourced: `. .packaging/toolchain.sh; toolchain aarch64`.
#
# It leaves what cargo needs in the environment, and sets TARGET (Rust's name), DEBIAN (Debian's), CROSS (OpenSSL's), COMPILER,
# ARCHIVER, FLAGS (for cargo), LINKS (for the last rustc) and SMALL (the same, for a binary that is to be small). What is fetched lies in
# target/cross; only compilers are installed.

need() { # program package...
  command -v "$1" >/dev/null 2>&1 && return
  shift
  [ "$(id -u)" = 0 ] || { echo "needed: apt-get install $*" >&2; exit 1; }
  echo "installing $*"
  apt-get update -qq >/dev/null 2>&1 || true
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Debian's musl for another architecture, unpacked and not installed: the system's own lists stay as they are.
musl() { # Debian's architecture
  local dir=$PWD/target/cross/musl-$1
  if [ ! -e "$dir/usr" ]; then
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    local apt="apt-get -qq -o APT::Architecture=$1 -o APT::Architectures::=$1 -o Dir::State::lists=$dir/lists
      -o Dir::Cache=$dir/cache -o APT::Sandbox::User=root"
    # A list that this mirror is just renewing is no reason to stop: what counts is the package.
    $apt update >/dev/null 2>&1 || true
    (cd "$dir" && $apt download "musl-dev:$1" && dpkg-deb -x musl-dev_*.deb .)
    rm -rf "$dir/lists" "$dir/cache"
  fi
  echo "$dir"
}

# A compiler that knows musl's headers and not glibc's, whose structures have other sizes.
compiler() { # gcc, headers
  local wrapper=$PWD/target/cross/bin/musl-$1
  mkdir -p "${wrapper%/*}"
  printf '#!/bin/sh\nexec %s -nostdinc -isystem %s -isystem "$(%s -print-file-name=include)" "$@"\n' "$1" "$2" "$1" > "$wrapper"
  chmod 755 "$wrapper"
  echo "$wrapper"
}

toolchain() { # x86_64, aarch64 or armv7
  # The standard library is compiled, too: for size, and without what unwinds the stack.
  export RUSTC_BOOTSTRAP=1
  FLAGS="-Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size"
  # One linker for all; it folds equal functions of Rust's, packs what is relocated at the start, and leaves out tables for
  # unwinding: a panic ends the program.
  LINKS="-C linker=rust-lld -C link-arg=--icf=safe -C link-arg=-T$PWD/.packaging/no-unwinding.ld"
  # Equal pieces of functions become functions: half a megabyte less, and a fifth more processor time for a row. On x86_64 it is a
  # quarter of a megabyte, which is not worth it.
  SMALL="-C llvm-args=-enable-machine-outliner=always"
  # In zstd we use levels up to 3: the slower searches are left out.
  local smaller=""
  for search in GREEDY LAZY LAZY2 BTLAZY2 BTOPT BTULTRA; do
    smaller="$smaller -DZSTD_EXCLUDE_${search}_BLOCK_COMPRESSOR"
  done
  need perl perl
  need make make
  case $1 in
  x86_64)
    TARGET=x86_64-unknown-linux-musl DEBIAN=amd64 CROSS=linux-x86_64 SMALL=
    need musl-gcc musl-tools
    COMPILER=musl-gcc ARCHIVER=ar
    ;;
  aarch64)
    TARGET=aarch64-unknown-linux-musl DEBIAN=arm64 CROSS=linux-aarch64
    need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    COMPILER=$(compiler aarch64-linux-gnu-gcc "$(musl arm64)/usr/include/aarch64-linux-musl")
    ARCHIVER=aarch64-linux-gnu-ar
    ;;
  armv7)
    # Rust has nothing ready for it: Debian's musl takes its place.
    TARGET=armv7-unknown-linux-musleabihf DEBIAN=armhf CROSS=linux-armv4
    need arm-linux-gnueabihf-gcc gcc-arm-linux-gnueabihf libc6-dev-armhf-cross
    local dir libs
    dir=$(musl armhf)
    libs=$dir/usr/lib/arm-linux-musleabihf
    COMPILER=$(compiler arm-linux-gnueabihf-gcc "$dir/usr/include/arm-linux-musleabihf")
    ARCHIVER=arm-linux-gnueabihf-ar
    # The standard library asks for libunwind; gcc's does the same. OpenSSL's binding asks for libatomic.
    mkdir -p target/cross/lib
    cp "$($COMPILER -print-file-name=libgcc_eh.a)" target/cross/lib/libunwind.a
    cp "$($COMPILER -print-file-name=libatomic.a)" target/cross/lib/
    LINKS="$LINKS -C relocation-model=static -C link-self-contained=no
      -Z pre-link-args=$libs/crt1.o -Z pre-link-args=$libs/crti.o -L native=$libs -L native=$PWD/target/cross/lib
      -C link-arg=$($COMPILER -print-libgcc-file-name) -C link-arg=$libs/libc.a -C link-arg=$libs/crtn.o"
    ;;
  *) echo "no such architecture: $1 (x86_64, aarch64 or armv7)" >&2; exit 2 ;;
  esac
  rustup component add rust-src
  # Of it, what starts a program and musl itself are used.
  [ "$1" = armv7 ] || rustup target add $TARGET
  [ "$1" = armv7 ] || LINKS="$LINKS -C link-arg=--pack-dyn-relocs=relr"
  local name=${TARGET//-/_}
  export "CC_$name=$COMPILER" "AR_$name=$ARCHIVER" "CFLAGS_$name=$smaller"
  export COMPILER ARCHIVER CROSS
}
