//! Real servers for the stores: each on loopback, on free ports, in a directory of its test, ended by its own process id.

use super::support::*;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub const USER: &str = "app";
pub const PASSWORD: &str = "s3cr3t-pass";
pub const KEY: &str = "AKHARMONYLITE";
pub const SECRET: &str = "sEcReTsEcReTsEcReT";

/// Somebody else's, where a server has two users.
pub const OTHER_KEY: &str = "AKSOMEBODYELSE";
pub const OTHER_SECRET: &str = "tHeIrStHeIrS";

/// Processes that end with it.
pub struct Server {
    pub port: u16,
    children: Vec<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let pid = child.id().to_string();
            // In order, so that it takes its own children along.
            let _ = Command::new("kill").args(["-CONT", &pid]).stderr(Stdio::null()).status();
            let _ = Command::new("kill").args(["-TERM", &pid]).stderr(Stdio::null()).status();
            for _ in 0..500 {
                if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                    break;
                }
                pause(10);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A tool of the test environment that `make setup` made.
pub fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/venv/bin").join(name);
    assert!(path.exists(), "no {name}: run `make setup`");
    path
}

/// A program of the system.
fn system(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/lib/openssh"];
    let found = places.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {name}: run `make setup`"))
}

fn spawn(command: &mut Command, dir: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("server.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}

fn listening(port: u16, seconds: u64) {
    wait_for("the server listens", seconds, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
}

fn directory(dir: &Dir, name: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.0.join(name);
    std::fs::create_dir_all(&path).unwrap();
    // Servers that give up root write here as somebody else.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    path
}

fn run(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> String {
    let output = Command::new(program.as_ref()).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{:?} {arguments:?}: {}",
        program.as_ref(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// `rclone serve KIND`, with a login.
pub fn rclone(dir: &Dir, kind: &str, login: &[&str]) -> Server {
    rclone_at(dir, kind, free_port(), login)
}

/// The same on a given port.
pub fn rclone_at(dir: &Dir, kind: &str, port: u16, login: &[&str]) -> Server {
    let root = directory(dir, "rclone");
    let mut command = Command::new(tool("rclone"));
    command.args(["serve", kind, "--config", "/dev/null", "--addr", &format!("127.0.0.1:{port}")]);
    let child = spawn(command.args(login).arg(&root), &dir.0);
    listening(port, 20);
    Server { port, children: vec![child] }
}

/// moto with its signature checks on. Returns an access key of a user who may do everything.
pub fn moto(dir: &Dir) -> (Server, String, String) {
    moto_with(dir, 3)
}

/// The same, with so many requests at the beginning that need no signature.
pub fn moto_with(dir: &Dir, open: u32) -> (Server, String, String) {
    let port = free_port();
    let mut command = Command::new(tool("moto_server"));
    command
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .env("INITIAL_NO_AUTH_ACTION_COUNT", open.to_string());
    let child = spawn(&mut command, &dir.0);
    listening(port, 60);
    let script = format!(
        "import boto3, json\n\
         iam = boto3.client('iam', endpoint_url='http://127.0.0.1:{port}', region_name='us-east-1', aws_access_key_id='x', aws_secret_access_key='x')\n\
         iam.create_user(UserName='u')\n\
         key = iam.create_access_key(UserName='u')['AccessKey']\n\
         allow = dict(Version='2012-10-17', Statement=[dict(Effect='Allow', Action='*', Resource='*')])\n\
         iam.put_user_policy(UserName='u', PolicyName='p', PolicyDocument=json.dumps(allow))\n\
         print(key['AccessKeyId'], key['SecretAccessKey'])\n"
    );
    let keys = python(&script);
    let (id, secret) = keys.trim().split_once(' ').unwrap();
    (Server { port, children: vec![child] }, id.to_owned(), secret.to_owned())
}

/// A web proxy; the path of its log.
pub fn proxy(dir: &Dir) -> (Server, PathBuf) {
    let port = free_port();
    let (config, log) = (dir.0.join("tinyproxy.conf"), dir.0.join("tinyproxy.log"));
    let text = format!(
        "Port {port}\nListen 127.0.0.1\nTimeout 60\nLogFile \"{}\"\nLogLevel Connect\nMaxClients 20\nUser root\nGroup root\n",
        log.display()
    );
    let users = if is_root() { text } else { text.replace("User root\nGroup root\n", "") };
    std::fs::write(&config, users).unwrap();
    let child = spawn(Command::new(system("tinyproxy")).arg("-d").arg("-c").arg(&config), &dir.0);
    listening(port, 20);
    (Server { port, children: vec![child] }, log)
}

/// Runs a Python script with the test environment's packages.
pub fn python(script: &str) -> String {
    run(tool("python"), &["-c", script])
}

/// Ceph's S3 gateway with a monitor and one disk in memory.
pub fn ceph(dir: &Dir) -> Server {
    let base = directory(dir, "ceph");
    let (one, two, port) = (free_port(), free_port(), free_port());
    let uuid = || std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned();
    let fsid = uuid();
    for name in ["mon", "osd/0", "run", "log"] {
        std::fs::create_dir_all(base.join(name)).unwrap();
    }
    let at = base.display();
    // radosgw without authentication hangs on its default mode towards the monitor, `secure`.
    let config = format!(
        "[global]\nfsid = {fsid}\nmon host = [v2:127.0.0.1:{one},v1:127.0.0.1:{two}]\nauth cluster required = none\n\
         auth service required = none\nauth client required = none\nauth_supported = none\nms_mon_client_mode = crc\n\
         mon_allow_pool_size_one = true\nosd pool default size = 1\nosd pool default min size = 1\n\
         osd crush chooseleaf type = 0\nosd pool default pg num = 4\nosd pool default pgp num = 4\n\
         osd_pool_default_pg_autoscale_mode = off\nmon_max_pg_per_osd = 1000\nosd objectstore = memstore\n\
         memstore device bytes = 3221225472\nmon data avail crit = 1\nmon data = {at}/mon\nosd data = {at}/osd/$id\n\
         log file = {at}/log/$name.log\nadmin socket = {at}/run/$name.asok\npid file = {at}/run/$name.pid\n\
         keyring = {at}/keyring\npublic network = 127.0.0.0/8\nms bind ipv6 = false\n[client.rgw.a]\n\
         rgw frontends = beast endpoint=127.0.0.1:{port}\n"
    );
    let conf = base.join("ceph.conf");
    std::fs::write(&conf, config).unwrap();
    let conf = conf.to_str().unwrap().to_owned();
    let (keyring, monmap) = (format!("{at}/keyring"), format!("{at}/monmap"));
    let with = |name: &str, arguments: &[&str]| {
        let mut all = vec!["-c", conf.as_str()];
        all.extend(arguments);
        run(system(name), &all)
    };
    run(system("ceph-authtool"), &["--create-keyring", &keyring, "--gen-key", "-n", "client.rgw.a"]);
    let addresses = format!("[v2:127.0.0.1:{one},v1:127.0.0.1:{two}]");
    run(
        system("monmaptool"),
        &["--create", "--clobber", "--fsid", &fsid, "--addv", "a", &addresses, &monmap],
    );
    with("ceph-mon", &["--mkfs", "-i", "a", "--monmap", &monmap]);
    let daemon = |name: &str, arguments: &[&str]| {
        spawn(Command::new(system(name)).args(["-c", conf.as_str(), "-f"]).args(arguments), &base)
    };
    let mut children = vec![daemon("ceph-mon", &["-i", "a"])];
    let osd = uuid();
    with("ceph", &["--connect-timeout", "60", "osd", "create", &osd]);
    with("ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", &osd]);
    children.push(daemon("ceph-osd", &["-i", "0"]));
    wait_for("the disk is up", 60, || {
        with("ceph", &["--connect-timeout", "60", "-s"]).contains("1 up").then_some(())
    });
    let user = ["-n", "client.rgw.a", "user", "create", "--uid", "t", "--display-name", "t"];
    with("radosgw-admin", &[&user[..], &["--access-key", KEY, "--secret", SECRET]].concat());
    let other = ["-n", "client.rgw.a", "user", "create", "--uid", "other", "--display-name", "other"];
    with("radosgw-admin", &[&other[..], &["--access-key", OTHER_KEY, "--secret", OTHER_SECRET]].concat());
    children.push(daemon("radosgw", &["-n", "client.rgw.a"]));
    listening(port, 90);
    Server { port, children }
}

/// The ports of one WebDAV server by how they authenticate.
pub struct Dav {
    /// Ends with it.
    pub _server: Server,
    pub basic: u16,
    pub digest: u16,
    pub tls: u16,
    pub ca: PathBuf,
}

fn certificate(at: &Path) -> (PathBuf, PathBuf) {
    let (cert, key) = (at.join("cert.pem"), at.join("key.pem"));
    let arguments =
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost";
    let mut command = Command::new(system("openssl"));
    command.args(arguments.split(' ')).args([
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
    let made = command.arg("-keyout").arg(&key).arg("-out").arg(&cert).stderr(Stdio::null()).status();
    assert!(made.unwrap().success());
    (cert, key)
}

fn md5_hex(text: &str) -> String {
    python(&format!("import hashlib; print(hashlib.md5({text:?}.encode()).hexdigest())")).trim().to_owned()
}

fn basic_passwords(at: &Path) -> PathBuf {
    let path = at.join("basic.pw");
    let hash = run(system("openssl"), &["passwd", "-apr1", PASSWORD]);
    std::fs::write(&path, format!("{USER}:{hash}")).unwrap();
    path
}

/// Apache with mod_dav: basic, digest (MD5), and TLS.
pub fn apache(dir: &Dir) -> Dav {
    let base = directory(dir, "apache");
    for name in ["www", "lock", "log"] {
        directory(dir, &format!("apache/{name}"));
    }
    let (basic, digest, tls) = (free_port(), free_port(), free_port());
    let (cert, key) = certificate(&base);
    let passwords = basic_passwords(&base);
    let realm = base.join("digest.pw");
    std::fs::write(&realm, format!("{USER}:dav:{}\n", md5_hex(&format!("{USER}:dav:{PASSWORD}")))).unwrap();
    let at = base.display();
    let modules: String = [
        "mpm_event",
        "authn_core",
        "authn_file",
        "authz_core",
        "authz_user",
        "auth_basic",
        "auth_digest",
        "dav",
        "dav_fs",
        "mime",
        "socache_shmcb",
        "ssl",
        "setenvif",
    ]
    .iter()
    .map(|name| format!("LoadModule {name}_module modules/mod_{name}.so\n"))
    .collect();
    let basic_auth = format!("AuthType Basic\nAuthName dav\nAuthUserFile {}", passwords.display());
    let digest_auth =
        format!("AuthType Digest\nAuthName dav\nAuthDigestProvider file\nAuthUserFile {}", realm.display());
    let host = |port: u16, more: &str, auth: &str| {
        format!("<VirtualHost 127.0.0.1:{port}>\n{more}\n<Location />\n{auth}\n</Location>\n</VirtualHost>\n")
    };
    let ssl = format!(
        "SSLEngine on\nSSLCertificateFile {}\nSSLCertificateKeyFile {}",
        cert.display(),
        key.display()
    );
    let config = format!(
        "ServerRoot /usr/lib/apache2\nPidFile {at}/pid\nServerName localhost\nListen 127.0.0.1:{basic}\n\
         Listen 127.0.0.1:{digest}\nListen 127.0.0.1:{tls}\nUser www-data\nGroup www-data\n{modules}\
         TypesConfig /etc/mime.types\nErrorLog {at}/log/error.log\nDavLockDB {at}/lock/DavLock\nDocumentRoot {at}/www\n\
         Mutex file:{at}/lock default\n<Directory {at}/www>\nDav On\nDavDepthInfinity On\nRequire valid-user\n</Directory>\n{}{}{}",
        host(basic, "", &basic_auth),
        host(digest, "", &digest_auth),
        host(tls, &ssl, &basic_auth)
    );
    let path = base.join("conf");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(system("apache2"));
    let child = spawn(command.args(["-D", "FOREGROUND", "-f"]).arg(&path), &base);
    [basic, digest, tls].iter().for_each(|port| listening(*port, 20));
    Dav { _server: Server { port: basic, children: vec![child] }, basic, digest, tls, ca: cert }
}

/// lighttpd: basic and digest (SHA-256).
pub fn lighttpd(dir: &Dir) -> Dav {
    let base = directory(dir, "lighttpd");
    directory(dir, "lighttpd/www");
    let (basic, digest) = (free_port(), free_port());
    std::fs::write(base.join("pw"), format!("{USER}:{PASSWORD}\n")).unwrap();
    let at = base.display();
    let socket = |port: u16, how: &str| {
        format!(
            "$SERVER[\"socket\"] == \"127.0.0.1:{port}\" {{ auth.require = (\"/\" => ({how}, \"realm\" => \"dav\", \"require\" => \"valid-user\")) }}\n"
        )
    };
    let config = format!(
        "server.modules = (\"mod_auth\", \"mod_authn_file\", \"mod_webdav\")\nserver.document-root = \"{at}/www\"\n\
         server.bind = \"127.0.0.1\"\nserver.port = {basic}\nserver.errorlog = \"{at}/err.log\"\n\
         server.upload-dirs = (\"{at}\")\nwebdav.activate = \"enable\"\nwebdav.sqlite-db-name = \"{at}/dav.db\"\n\
         auth.backend = \"plain\"\nauth.backend.plain.userfile = \"{at}/pw\"\n\
         mimetype.assign = (\"\" => \"application/octet-stream\")\n{}{}",
        socket(basic, "\"method\" => \"basic\""),
        socket(digest, "\"method\" => \"digest\", \"algorithm\" => \"SHA-256\"")
    );
    let path = base.join("conf");
    std::fs::write(&path, config).unwrap();
    let child = spawn(Command::new(system("lighttpd")).args(["-D", "-f"]).arg(&path), &base);
    [basic, digest].iter().for_each(|port| listening(*port, 20));
    Dav { _server: Server { port: basic, children: vec![child] }, basic, digest, tls: 0, ca: PathBuf::new() }
}

/// nginx with its DAV extension; basic.
pub fn nginx(dir: &Dir) -> Server {
    let base = directory(dir, "nginx");
    for name in ["www", "tmp"] {
        directory(dir, &format!("nginx/{name}"));
    }
    let port = free_port();
    let passwords = basic_passwords(&base);
    let at = base.display();
    let config = format!(
        "load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;\nuser www-data; worker_processes 1; daemon off;\n\
         pid {at}/pid; error_log {at}/error.log;\nevents {{ worker_connections 64; }}\nhttp {{ access_log off; \
         client_max_body_size 0; client_body_temp_path {at}/tmp;\nserver {{ listen 127.0.0.1:{port}; root {at}/www;\n\
         location / {{ auth_basic dav; auth_basic_user_file {}; dav_methods PUT DELETE MKCOL COPY MOVE; \
         dav_ext_methods PROPFIND OPTIONS; dav_access user:rw group:r all:r; }} }} }}\n",
        passwords.display()
    );
    let path = base.join("conf");
    std::fs::write(&path, config).unwrap();
    let child = spawn(Command::new(system("nginx")).arg("-c").arg(&path), &base);
    listening(port, 20);
    Server { port, children: vec![child] }
}

/// wsgidav; basic and digest, digest preferred.
pub fn wsgidav(dir: &Dir) -> Server {
    let base = directory(dir, "wsgidav");
    let root = directory(dir, "wsgidav/www");
    let port = free_port();
    let config = format!(
        "host: 127.0.0.1\nport: {port}\nprovider_mapping:\n  \"/\": {:?}\nhttp_authenticator:\n  domain_controller: null\n  \
         accept_basic: true\n  accept_digest: true\n  default_to_digest: true\nsimple_dc:\n  user_mapping:\n    \"*\":\n      \
         {USER:?}:\n        password: {PASSWORD:?}\nproperty_manager: true\nlock_storage: true\n",
        root.display().to_string()
    );
    let path = base.join("conf.yaml");
    std::fs::write(&path, config).unwrap();
    let child = spawn(Command::new(tool("wsgidav")).arg("-c").arg(&path), &base);
    listening(port, 30);
    Server { port, children: vec![child] }
}

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
