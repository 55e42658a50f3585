//! A certificate authority of a test, and certificates by it.

use super::{Dir, faketime};
use std::path::PathBuf;
use std::process::Command;

/// The authority; its files lie in the test's directory.
pub struct Authority(PathBuf);

/// Files of a certificate, of its key, and of the authority.
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

impl Authority {
    pub fn new(dir: &Dir) -> Authority {
        let authority = Authority(dir.0.clone());
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -days 30 -subj \
             /CN=test-ca -addext basicConstraints=critical,CA:TRUE",
        );
        authority
    }

    fn openssl(&self, arguments: &str) {
        self.openssl_on("+0", arguments);
    }

    /// `day`: relative to today, as `-90d`.
    fn openssl_on(&self, day: &str, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(&self.0);
        if day != "+0" {
            command.env("LD_PRELOAD", faketime()).env("FAKETIME", day);
        }
        let made = command.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// A certificate for names such as `DNS:localhost` or `IP:127.0.0.1`.
    pub fn certificate(&self, file: &str, names: &str) -> Certificate {
        self.certificate_of("+0", file, names)
    }

    /// The same of another day, for 30 days from then on.
    pub fn certificate_of(&self, day: &str, file: &str, names: &str) -> Certificate {
        std::fs::write(self.0.join(format!("{file}.ext")), format!("subjectAltName={names}\n")).unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {file}.key -out {file}.csr -subj /CN={file}"
        ));
        self.openssl_on(day, &format!(
            "x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile {file}.ext -out {file}.pem"
        ));
        let path = |name: String| self.0.join(name);
        Certificate {
            cert: path(format!("{file}.pem")),
            key: path(format!("{file}.key")),
            ca: self.0.join("ca.pem"),
        }
    }
}

impl Certificate {
    /// The block for nats-server's configuration.
    pub fn tls_block(&self, verify: bool) -> String {
        let Certificate { cert, key, ca } = self;
        format!("tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, verify: {verify} }}")
    }
}
