//! Servers for SFTP: OpenSSH, ProFTPD and asyncssh. rclone's is in the module above.

use super::{PASSWORD, Server, USER, directory, listening, run, spawn, system, tool};
use crate::support::{Dir, free_port};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An SSH server, and what a client needs to know of it.
pub struct Ssh {
    pub server: Server,
    pub user: String,
    pub key: PathBuf,
    /// Where the files go.
    pub root: PathBuf,
    /// `SHA256:...` of the host keys.
    pub fingerprints: Vec<String>,
}

fn ssh_key(path: &Path, kind: &str, phrase: &str) {
    let path = path.to_str().unwrap();
    run(system("ssh-keygen"), &["-q", "-t", kind, "-N", phrase, "-f", path]);
}

/// Fingerprint of a key file, as OpenSSH prints it.
pub fn fingerprint(path: &Path) -> String {
    let text = run(system("ssh-keygen"), &["-l", "-f", path.to_str().unwrap()]);
    text.split(' ').nth(1).unwrap().to_owned()
}

/// OpenSSH's server as the current user: keys only.
pub fn openssh(dir: &Dir) -> Ssh {
    let base = directory(dir, "ssh");
    let root = directory(dir, "ssh/data");
    for (name, kind) in
        [("host_ed25519", "ed25519"), ("host_rsa", "rsa"), ("id", "ed25519"), ("other", "ed25519")]
    {
        ssh_key(&base.join(name), kind, "");
    }
    ssh_key(&base.join("id_phrase"), "ed25519", "open sesame");
    let public = |name: &str| std::fs::read_to_string(base.join(name)).unwrap();
    std::fs::write(base.join("authorized"), public("id.pub") + &public("id_phrase.pub")).unwrap();
    let port = free_port();
    let user = run(system("id"), &["-un"]).trim().to_owned();
    let at = base.display();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nPidFile {at}/pid\nHostKey {at}/host_ed25519\nHostKey {at}/host_rsa\n\
         AuthorizedKeysFile {at}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nPubkeyAuthentication yes\nPermitRootLogin prohibit-password\n\
         Subsystem sftp internal-sftp\nForceCommand internal-sftp\nMaxStartups 100\n"
    );
    let path = base.join("conf");
    std::fs::write(&path, config).unwrap();
    if user == "root" {
        std::fs::create_dir_all("/run/sshd").unwrap();
    }
    let child = spawn(Command::new(system("sshd")).args(["-D", "-e", "-f"]).arg(&path), &base);
    listening(port, 20);
    let fingerprints =
        ["host_ed25519.pub", "host_rsa.pub"].map(|name| fingerprint(&base.join(name))).to_vec();
    Ssh { server: Server { port, children: vec![child] }, user, key: base.join("id"), root, fingerprints }
}

/// A server that takes a password only as the answer to a question (keyboard-interactive), as many NAS devices do.
const ASKING: &str = r#"
import asyncio, asyncssh, sys
port, key, root, user, password = sys.argv[1:6]
class Server(asyncssh.SSHServer):
    def begin_auth(self, username): return True
    def password_auth_supported(self): return False
    def public_key_auth_supported(self): return False
    def kbdint_auth_supported(self): return True
    def get_kbdint_challenge(self, username, lang, submethods): return "", "", "", [("Password: ", False)]
    def validate_kbdint_response(self, username, responses): return username == user and responses == [password]
class Files(asyncssh.SFTPServer):
    def __init__(self, channel): super().__init__(channel, chroot=root.encode())
async def main():
    await asyncssh.create_server(Server, "127.0.0.1", int(port), server_host_keys=[key], sftp_factory=Files)
    await asyncio.Event().wait()
asyncio.run(main())
"#;

/// asyncssh's server.
pub fn asyncssh(dir: &Dir) -> Ssh {
    let base = directory(dir, "asyncssh");
    let root = directory(dir, "asyncssh/data");
    let key = base.join("host_ed25519");
    ssh_key(&key, "ed25519", "");
    let port = free_port();
    let mut command = Command::new(tool("python"));
    command.args(["-c", ASKING, &port.to_string()]).arg(&key).arg(&root).args([USER, PASSWORD]);
    let child = spawn(&mut command, &base);
    listening(port, 20);
    let server = Server { port, children: vec![child] };
    Ssh { server, user: USER.into(), key: PathBuf::new(), root, fingerprints: vec![] }
}

/// A server that does to its clients what a test says.
pub struct HostileSftp {
    pub ssh: Ssh,
    mode: PathBuf,
}

impl HostileSftp {
    /// From the next request on; the modes stand in its program.
    pub fn does(&self, mode: &str) {
        std::fs::write(&self.mode, mode).unwrap();
    }
}

/// asyncssh's server, honest at first.
pub fn hostile_sftp(dir: &Dir) -> HostileSftp {
    let base = directory(dir, "hostile-sftp");
    let root = directory(dir, "hostile-sftp/data");
    let (key, mode) = (base.join("host_ed25519"), base.join("mode"));
    ssh_key(&key, "ed25519", "");
    std::fs::write(&mode, "honest").unwrap();
    let port = free_port();
    let mut command = Command::new(tool("python"));
    command.args(["-c", include_str!("hostile_sftp.py"), &port.to_string()]);
    let child = spawn(command.arg(&key).arg(&root).arg(&mode).args([USER, PASSWORD]), &base);
    listening(port, 20);
    let server = Server { port, children: vec![child] };
    HostileSftp {
        ssh: Ssh { server, user: USER.into(), key: PathBuf::new(), root, fingerprints: vec![] },
        mode,
    }
}

/// ProFTPD's mod_sftp: password. Needs root to become its user.
pub fn proftpd(dir: &Dir) -> Ssh {
    let base = directory(dir, "proftpd");
    let root = directory(dir, "proftpd/data");
    ssh_key(&base.join("host_ed25519"), "ed25519", "");
    ssh_key(&base.join("host_rsa"), "rsa", "");
    let port = free_port();
    let at = base.display();
    let hash = run(system("openssl"), &["passwd", "-6", PASSWORD]);
    let passwords = base.join("passwd");
    std::fs::write(
        &passwords,
        format!("{USER}:{}:65534:65534::{}:/bin/false\n", hash.trim(), root.display()),
    )
    .unwrap();
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&passwords, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let config = format!(
        "ModulePath /usr/lib/proftpd\nLoadModule mod_sftp.c\nServerType standalone\nServerName t\n\
         DefaultAddress 127.0.0.1\nPort {port}\nSocketBindTight on\nUseIPv6 off\nUseReverseDNS off\nUser nobody\n\
         Group nogroup\nPidFile {at}/pid\nScoreboardFile {at}/score\nDelayTable none\nWtmpLog off\nTransferLog none\n\
         SystemLog {at}/sys.log\nAuthUserFile {at}/passwd\nAuthOrder mod_auth_file.c\nRequireValidShell off\n\
         AllowOverwrite on\nSFTPEngine on\nSFTPLog {at}/sftp.log\nSFTPHostKey {at}/host_rsa\n\
         SFTPHostKey {at}/host_ed25519\nSFTPAuthMethods password\nDefaultRoot ~\n"
    );
    let path = base.join("conf");
    std::fs::write(&path, config).unwrap();
    let child = spawn(Command::new(system("proftpd")).args(["-n", "-q", "-c"]).arg(&path), &base);
    listening(port, 20);
    let fingerprints =
        ["host_ed25519.pub", "host_rsa.pub"].map(|name| fingerprint(&base.join(name))).to_vec();
    Ssh {
        server: Server { port, children: vec![child] },
        user: USER.to_owned(),
        key: PathBuf::new(),
        root,
        fingerprints,
    }
}
