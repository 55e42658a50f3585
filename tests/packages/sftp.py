"""Whether the OpenSSL of .packaging/openssl.sh, from which much is left out, still speaks with OpenSSH: every kind of key, key
exchange, cipher and MAC that libssh2 and today's OpenSSH share. `sftp.py BINARY [EMULATOR]`"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

from root import Process, free_port, wait_for

HOST_KEYS = {"ed25519": [], "rsa": ["-b", "2048"], "ecdsa": ["-b", "256"]}
# Name: arguments of ssh-keygen, passphrase.
KEYS = {
    "ed25519": (["-t", "ed25519"], ""),
    "ed25519-phrase": (["-t", "ed25519"], "open sesame"),
    "rsa": (["-t", "rsa", "-b", "2048"], ""),
    "rsa-pem": (["-t", "rsa", "-b", "2048", "-m", "PEM"], ""),
    "rsa-pem-phrase": (["-t", "rsa", "-b", "2048", "-m", "PEM"], "open sesame"),
    "rsa-pkcs8-phrase": (["-t", "rsa", "-b", "2048", "-m", "PKCS8"], "open sesame"),
    "ecdsa-256": (["-t", "ecdsa", "-b", "256"], ""),
    "ecdsa-384-pem": (["-t", "ecdsa", "-b", "384", "-m", "PEM"], ""),
    "ecdsa-521": (["-t", "ecdsa", "-b", "521"], ""),
}
CHOICES = [("HostKeyAlgorithms", name) for name in ("ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256", "ecdsa-sha2-nistp256")]
CHOICES += [("KexAlgorithms", name) for name in (
    "curve25519-sha256", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521", "diffie-hellman-group14-sha256",
    "diffie-hellman-group16-sha512", "diffie-hellman-group18-sha512", "diffie-hellman-group-exchange-sha256")]
CHOICES += [("Ciphers", name) for name in (
    "aes128-ctr", "aes192-ctr", "aes256-ctr", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com", "aes256-cbc")]
CHOICES += [("MACs", name) for name in ("hmac-sha2-256", "hmac-sha2-512", "hmac-sha2-256-etm@openssh.com")]


def keygen(path, arguments, phrase=""):
    subprocess.run(("ssh-keygen", "-q", "-N", phrase, "-f", path, *arguments), check=True)


def main(*program):
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder)
        (base / "data").mkdir()
        for name, arguments in HOST_KEYS.items():
            keygen(base / f"host_{name}", ["-t", name, *arguments])
        for name, (arguments, phrase) in KEYS.items():
            keygen(base / name, arguments, phrase)
        (base / "authorized").write_text("".join((base / f"{name}.pub").read_text() for name in KEYS))
        if os.getuid() == 0:
            pathlib.Path("/run/sshd").mkdir(exist_ok=True)

        def look(key, more=""):
            """Stores nothing: the list of snapshots needs a login, a session and a request."""
            port = free_port()
            server = (f"Port {port}\nListenAddress 127.0.0.1\nPidFile {base}/pid\nAuthorizedKeysFile {base}/authorized\n"
                      "StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n" + more
                      + "".join(f"HostKey {base}/host_{name}\n" for name in HOST_KEYS))
            (base / "sshd").write_text(server)
            store = base / f"store{port}"
            store.mkdir()
            (store / "config.toml").write_text(
                f'db_path = "{store}/app.db"\nnode_id = 1\n[nats]\nurls = ["nats://127.0.0.1:9"]\n[snapshot]\nstore = "sftp"\n'
                f'[snapshot.sftp]\nurl = "sftp://{user}@127.0.0.1:{port}{base}/data"\nkey_file = "{base}/{key}"\n'
                f'key_passphrase = "{KEYS[key][1]}"\n')
            sshd = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
            with Process(sshd, "-D", "-e", "-f", base / "sshd") as server:
                wait_for(f"sshd {server.said()}", lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
                done = subprocess.run((*program, "-config", store / "config.toml", "-list-snapshots"), capture_output=True,
                                      text=True, timeout=120)
            if done.returncode:
                failed.append(f"{key} {more.strip()}: {done.stdout}{done.stderr}")

        user, failed = subprocess.run(("id", "-un"), capture_output=True, text=True).stdout.strip(), []
        for key in KEYS:
            look(key)
        for option, name in CHOICES:
            look("ed25519", f"{option} {name}\n")
        if failed:
            sys.exit("\n".join(failed))
        print(f"{program[-1]}: SFTP with {len(KEYS)} kinds of keys and {len(CHOICES)} algorithms")


if __name__ == "__main__":
    binary, *emulator = sys.argv[1:]
    main(*emulator, binary)
