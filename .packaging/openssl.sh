#!/bin/bash
# The part of OpenSSL that SFTP needs, for the target of .packaging/toolchain.sh: `openssl.sh DIRECTORY`.
#
# The sources are those of the crate openssl-src. What that crate builds by itself holds all of OpenSSL's algorithms, because
# its tables name them: 4 MB, of which SSH uses a quarter. What is left out here is TLS, certificates' protocols, engines, and
# every algorithm that no SSH server of the last ten years asks for.
set -euo pipefail
out=$1
[ -e "$out/lib/libssl.a" ] && exit
source=$(cargo metadata --format-version 1 --locked --features static |
  python3 -c 'import json, sys; print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "openssl-src"))')
rm -rf "$out"
mkdir -p "$out/lib"
cp -r "${source%/*}/openssl" "$out/build"
cd "$out/build"

without="shared module legacy tests docs apps comp zlib dso engine async tls dtls quic ct cms cmp dsa ocsp ts http srp srtp psk rfc3779
  ssl-trace nextprotoneg aria argon2 bf blake2 camellia cast chacha poly1305 gost idea lms md2 md4 mdc2 ml-dsa ml-kem slh-dsa ocb
  siv rc2 rc4 rc5 rmd160 scrypt seed siphash sm2 sm3 sm4 whirlpool ec2m ui-console thread-pool secure-memory err
  autoload-config sock dgram multiblock cached-fetch"
# OpenSSL's scripts ask the assembler for its version, and write code for AVX-512 alone that is larger than all that SSH needs. A
# version from before AVX-512 gets what other processors run, AES and SHA instructions and AVX2 included.
printf '#!/bin/sh\ncase "$*" in *-Wa,-v*) echo "GNU assembler version 2.29"; exit ;; esac\nexec %s "$@"\n' "$COMPILER" > cc
chmod 755 cc
CC=$PWD/cc AR=$ARCHIVER perl ./Configure "$CROSS" --openssldir=/nonexistent $(printf 'no-%s ' $without) \
  -Os -fPIC -ffunction-sections -fdata-sections > ../log
make -j"$(nproc)" build_generated libcrypto.a >> ../log 2>&1 || { tail -n 20 ../log >&2; exit 1; }
cp -r include ..
cp libcrypto.a ../lib
# All that libssh2's binding wants of libssl is that it starts libcrypto.
cat > start.c <<'END'
int OPENSSL_init_crypto(unsigned long long options, const void *settings);
int OPENSSL_init_ssl(unsigned long long options, const void *settings);
int OPENSSL_init_ssl(unsigned long long options, const void *settings) { return OPENSSL_init_crypto(options, settings); }
END
$COMPILER -Os -fPIC -c start.c -o start.o
$ARCHIVER rcs ../lib/libssl.a start.o
rm -rf ../build
