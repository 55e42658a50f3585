//! Servers for WebDAV: Apache, lighttpd, nginx and wsgidav. rclone's is in the module above.

use super::{PASSWORD, Server, USER, directory, listening, python, run, spawn, system, tool};
use crate::support::{Dir, free_port};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
