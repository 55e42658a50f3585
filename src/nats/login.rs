//! How we identify ourselves to a server: the CONNECT line, and the signature of an nkey.

use super::error::Error;
use super::url::Url;
use super::wire::ServerInfo;
use crate::base::secret::Secret;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// How we identify ourselves, and whom we trust. A login in the server's URL wins over the one here.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    /// User name; empty: none.
    pub user: String,
    /// The user's password.
    pub password: Secret,
    /// Token, used when there is no user; empty: none.
    pub token: Secret,
    /// File with an nkey seed.
    pub seed_file: Option<PathBuf>,
    /// PEM file of the certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our certificate chain.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the key of our certificate.
    pub key_file: Option<PathBuf>,
    /// A connection with this login was encrypted. Clones share it.
    pub had_tls: Arc<AtomicBool>,
}

impl Auth {
    /// Why the connection to a server must be encrypted; `None`: the server may choose.
    pub fn demands_tls(&self, url: &Url) -> Option<&'static str> {
        if url.tls {
            Some("the URL demands it")
        } else if self.ca_file.is_some() || self.cert_file.is_some() || self.key_file.is_some() {
            Some("a certificate or an authority is configured, which demands it")
        } else if self.had_tls.load(Relaxed) {
            Some("an earlier connection had it: if it was taken away on purpose, start this program again")
        } else {
            None
        }
    }
}

/// The JSON after CONNECT. `tls`: whether the connection is encrypted.
pub fn connect_line(
    url: &Url,
    auth: &Auth,
    name: &str,
    info: &ServerInfo,
    tls: bool,
) -> Result<Value, Error> {
    let mut line = json!({
        "verbose": false, "pedantic": false, "tls_required": tls, "name": name, "lang": "rust",
        "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "headers": true, "no_responders": true,
    });
    match (&url.user, &url.password) {
        (Some(user), Some(password)) => {
            line["user"] = json!(user);
            line["pass"] = json!(password.expose());
        }
        (Some(token), None) => line["auth_token"] = json!(token),
        _ if !auth.user.is_empty() => {
            line["user"] = json!(auth.user);
            line["pass"] = json!(auth.password.expose());
        }
        _ if !auth.token.is_empty() => line["auth_token"] = json!(auth.token.expose()),
        _ => {}
    }
    if let Some(path) = &auth.seed_file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::Local(format!("{}: {error}", path.display())))?;
        let key = Nkey::parse(&text).map_err(|error| error.at(path.display()))?;
        line["nkey"] = json!(key.public);
        line["sig"] = json!(key.sign(&info.nonce));
    }
    Ok(line)
}

/// An Ed25519 key pair in the notation of NATS.
struct Nkey {
    /// The public key in base32, `U...`.
    public: String,
    pair: ring::signature::Ed25519KeyPair,
}

impl Nkey {
    /// Reads a seed: the first line that begins with `S`. It is base32 of two bytes with the bits of `S` and of the kind
    /// of key (`U`: user), 32 bytes of secret, and their CRC-16.
    fn parse(text: &str) -> Result<Nkey, Error> {
        use ring::signature::{Ed25519KeyPair, KeyPair};
        let bad = || Error::Permanent("not an nkey seed (SU...)".to_owned());
        let line = text.lines().map(str::trim).find(|line| line.starts_with('S')).ok_or_else(bad)?;
        let raw = data_encoding::BASE32_NOPAD.decode(line.as_bytes()).map_err(|_| bad())?;
        let (content, check) = raw.split_at_checked(34).ok_or_else(bad)?;
        if check != crc16(content).to_le_bytes() || content[0] & 0xf8 != 18 << 3 {
            return Err(bad());
        }
        let kind = (content[0] & 7) << 5 | content[1] >> 3;
        let pair = Ed25519KeyPair::from_seed_unchecked(&content[2..]).map_err(|_| bad())?;
        let mut public = vec![kind];
        public.extend_from_slice(pair.public_key().as_ref());
        public.extend_from_slice(&crc16(&public).to_le_bytes());
        Ok(Nkey { public: data_encoding::BASE32_NOPAD.encode(&public), pair })
    }

    /// The signature of the server's nonce in url-safe base64.
    fn sign(&self, nonce: &str) -> String {
        data_encoding::BASE64URL_NOPAD.encode(self.pair.sign(nonce.as_bytes()).as_ref())
    }
}

/// CRC-16/XMODEM, as nkeys use it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte) << 8,
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // A pair published in the documentation of NATS.
    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

    fn line(url: &str, auth: &Auth) -> Value {
        let info = ServerInfo::parse(br#"{"nonce":"abc"}"#).unwrap();
        connect_line(&Url::parse(url).unwrap(), auth, "me", &info, false).unwrap()
    }

    fn user_and_token() -> Auth {
        Auth { user: "u".into(), password: Secret::new("p"), token: Secret::new("t"), ..Auth::default() }
    }

    #[test]
    fn an_nkey_seed_and_its_public_key() {
        assert_eq!(Nkey::parse(&format!("# a comment\n{SEED}\n")).unwrap().public, PUBLIC);
    }

    #[test]
    fn what_is_no_seed_is_refused() {
        let other_check = SEED.replace("U3VY", "U3VX");
        for bad in ["", "SU", "Sü", PUBLIC, other_check.as_str(), &SEED[..50]] {
            assert!(matches!(Nkey::parse(bad), Err(Error::Permanent(_))), "{bad}");
        }
    }

    #[test]
    fn the_check_sum_of_the_standard() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(crc16(b""), 0);
    }

    #[test]
    fn without_a_login_none_is_sent() {
        let line = line("nats://h", &Auth::default());
        for key in ["user", "pass", "auth_token", "nkey", "sig"] {
            assert!(line.get(key).is_none(), "{key}");
        }
        assert_eq!(
            (&line["name"], &line["headers"], &line["no_responders"]),
            (&json!("me"), &json!(true), &json!(true))
        );
    }

    #[test]
    fn the_users_login_wins_over_the_token() {
        let line = line("nats://h", &user_and_token());
        assert_eq!((&line["user"], &line["pass"]), (&json!("u"), &json!("p")));
        assert!(line.get("auth_token").is_none());
        let auth = Auth { user: String::new(), ..user_and_token() };
        assert_eq!(super::tests::line("nats://h", &auth)["auth_token"], json!("t"));
    }

    #[test]
    fn the_urls_login_wins_over_the_configurations() {
        let with_user = line("nats://x:y@h", &user_and_token());
        assert_eq!((&with_user["user"], &with_user["pass"]), (&json!("x"), &json!("y")));
        let with_token = line("nats://x@h", &user_and_token());
        assert_eq!(with_token["auth_token"], json!("x"));
        assert!(with_token.get("user").is_none() && with_token.get("pass").is_none());
    }

    #[test]
    fn an_nkey_signs_the_nonce() {
        let path = std::env::temp_dir().join(format!("harmonylite-seed-{}", std::process::id()));
        std::fs::write(&path, SEED).unwrap();
        let line = line("nats://h", &Auth { seed_file: Some(path.clone()), ..Auth::default() });
        std::fs::remove_file(&path).unwrap();
        assert_eq!(line["nkey"], json!(PUBLIC));
        let signature =
            data_encoding::BASE64URL_NOPAD.decode(line["sig"].as_str().unwrap().as_bytes()).unwrap();
        let public = data_encoding::BASE32_NOPAD.decode(PUBLIC.as_bytes()).unwrap();
        let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, &public[1..33]);
        assert!(key.verify(b"abc", &signature).is_ok());
        assert!(key.verify(b"abd", &signature).is_err());
    }

    #[test]
    fn a_seed_file_that_is_not_there_is_named() {
        let auth = Auth { seed_file: Some("/no/such/seed".into()), ..Auth::default() };
        let info = ServerInfo::parse(b"{}").unwrap();
        let error = connect_line(&Url::parse("h").unwrap(), &auth, "me", &info, true).unwrap_err();
        assert!(matches!(&error, Error::Local(why) if why.starts_with("/no/such/seed: ")), "{error:?}");
    }
}
