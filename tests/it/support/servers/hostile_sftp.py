"""An SFTP server that does to its clients what the file MODE says at the moment: one word, looked at for each request.

Arguments: port, host key, directory, mode file, user, password.
"""
import asyncio
import os
import sys

import asyncssh
from asyncssh import sftp
from asyncssh.packet import String, UInt32

port, key, root, mode_file, user, password = sys.argv[1:7]

MSG_IGNORE, MSG_AUTH_BANNER = 2, 53
HUGE = 1 << 63
ODD_NAMES = [
    b"../../../etc/passwd", b"/etc/passwd", b"snapshot.db/../../x", b"snapshot.db\n12:00:00 [ERR] forged",
    b"\x1b[2Jsnapshot.db", b"snapshot-20260101T000000Z.db\x00.tmp", b"snapshot-\xff\xfe.db", b"",
    b"snapshot.db.0123456789abcdef.tmp/../snapshot.db", b"snapshot-" + b"x" * 60_000, b"snapshot-99999999T999999Z.db",
]


def mode():
    with open(mode_file, encoding="utf-8") as file:
        return file.read().strip()


def file_attributes(size):
    return asyncssh.SFTPAttrs(type=1, size=size, permissions=0o100644, uid=0, gid=0, atime=0, mtime=0)


SNAPSHOT = asyncssh.SFTPName(b"snapshot-20260101T000000Z.db", b"-", file_attributes(1))
OTHER = asyncssh.SFTPName(b"other", b"-", file_attributes(1))


class Server(asyncssh.SSHServer):
    def connection_made(self, conn):
        self.conn = conn

    async def begin_auth(self, username):
        if mode() == "flood-before-login":
            await flood(self.conn, MSG_AUTH_BANNER)
        return True

    def password_auth_supported(self):
        return True

    def validate_password(self, username, given):
        return (username, given) == (user, password)


async def flood(conn, kind):
    """Messages of SSH itself without end, as fast as the client takes them."""
    while not conn.is_closed():
        conn.send_packet(kind, String(b"x" * 30_000), String(b""))
        while conn._transport and conn._transport.get_write_buffer_size() > 1 << 20:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)


class Files(asyncssh.SFTPServer):
    def __init__(self, channel):
        super().__init__(channel, chroot=root.encode())

    def stat(self, path):
        now, found = mode(), super().stat(path)
        if os.path.isdir(self.map_path(path)):
            return found
        sizes = {"absurd-size": HUGE, "says-more": found.st_size + 1, "says-less": found.st_size - 1}
        return file_attributes(sizes[now]) if now in sizes else found

    async def scandir(self, path):
        now = mode()
        if now == "odd-names":
            for name in ODD_NAMES:
                yield asyncssh.SFTPName(name, attrs=file_attributes(HUGE))
        left = {"many-snapshots": 5_000, "endless-list": float("inf")}.get(now, 0)
        while left > 0:
            left -= 1
            yield SNAPSHOT if now == "many-snapshots" else OTHER
        async for name in super().scandir(path):
            yield name

    def read(self, file_obj, offset, size):
        now = mode()
        if now == "endless-content":
            return b"{" * size
        if now == "error-in-the-middle" and offset > 100:
            raise asyncssh.SFTPFailure("\x1b[2J\r\n12:00:00 [ERR] forged " + "x" * 100_000)
        if now == "error-in-the-middle":
            return super().read(file_obj, offset, min(size, 101))
        return super().read(file_obj, offset, size)

    def write(self, file_obj, offset, data):
        if mode() == "writes-nothing":
            return len(data)
        return super().write(file_obj, offset, data)

    def posix_rename(self, old, new):
        if mode() != "renames-nothing":
            super().posix_rename(old, new)

    rename = posix_rename


honest = sftp.SFTPServerHandler._process_packet


async def process(self, kind, number, packet):
    now, conn = mode(), self._writer.channel.get_connection()
    if now == "hang":
        await asyncio.Event().wait()
    if now == "cut":
        conn.abort()
    if now == "flood-of-nothing":
        await flood(conn, MSG_IGNORE)
    if now == "flood-of-what-nobody-reads":
        await flood(conn, MSG_AUTH_BANNER)
    while now == "flood-of-answers" and not conn.is_closed():
        self.send_packet(sftp.FXP_DATA, None, UInt32(0x7000_0000), String(b"x" * 30_000))
        await self._writer.drain()
        await asyncio.sleep(0)
    if now == "giant-answer":
        self._writer.write(b"\xff\xff\xff\xff" + b"x" * 1000)
    await honest(self, kind, number, packet)


sftp.SFTPServerHandler._process_packet = process


async def main():
    await asyncssh.create_server(Server, "127.0.0.1", int(port), server_host_keys=[key], sftp_factory=Files)
    await asyncio.Event().wait()


asyncio.run(main())
