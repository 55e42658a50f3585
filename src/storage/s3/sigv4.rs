//! AWS Signature Version 4 of one request, as pure functions (source: "AWS Signature Version 4 for API requests").

use crate::base::digest::hex_sha256;
use crate::storage::options::Keys;
use crate::storage::urls::escape;
use data_encoding::HEXLOWER;
use ring::hmac;
use std::fmt::Write as _;

/// The parts of a request that are signed.
#[derive(Clone, Debug)]
pub struct Signable<'a> {
    /// Such as `GET`.
    pub method: &'a str,
    /// The path as it is sent: for S3, escaped once and never normalised.
    pub path: &'a str,
    /// Names and values, not escaped.
    pub query: &'a [(String, String)],
    /// All headers to be signed, `host` and `x-amz-date` among them.
    pub headers: &'a [(String, String)],
    /// Hex SHA-256 of the body.
    pub body_hash: &'a str,
}

/// The query, escaped and sorted: so it is signed, and so it is sent.
pub fn query_text(query: &[(String, String)]) -> String {
    let mut pairs: Vec<(String, String)> =
        query.iter().map(|(name, value)| (escape(name), escape(value))).collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// Headers with lower-case names, sorted; several values of one name are joined with commas, in their order.
fn canonical_headers(headers: &[(String, String)]) -> Vec<(String, String)> {
    let mut merged: Vec<(String, String)> = vec![];
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        let value = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        match merged.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => {
                values.push(',');
                values.push_str(&value);
            }
            None => merged.push((name, value)),
        }
    }
    merged.sort();
    merged
}

/// The text of a request that is hashed for its signature.
pub fn canonical_request(request: &Signable<'_>) -> String {
    let headers = canonical_headers(request.headers);
    let mut text = format!("{}\n{}\n{}\n", request.method, request.path, query_text(request.query));
    for (name, value) in &headers {
        let _ = writeln!(text, "{name}:{value}");
    }
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    let _ = write!(text, "\n{}\n{}", names.join(";"), request.body_hash);
    text
}

/// The text that the key signs. `time` is `YYYYMMDDTHHMMSSZ`.
pub fn string_to_sign(canonical_request: &str, time: &str, region: &str, service: &str) -> String {
    let day = time.get(..8).unwrap_or(time);
    let hash = hex_sha256(canonical_request.as_bytes());
    format!("AWS4-HMAC-SHA256\n{time}\n{day}/{region}/{service}/aws4_request\n{hash}")
}

/// The value of the `Authorization` header.
pub fn sign(request: &Signable<'_>, keys: &Keys, time: &str, region: &str, service: &str) -> String {
    let day = time.get(..8).unwrap_or(time);
    let mut key = format!("AWS4{}", keys.secret.expose()).into_bytes();
    for part in [day, region, service, "aws4_request"] {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    let text = string_to_sign(&canonical_request(request), time, region, service);
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), text.as_bytes());
    let headers = canonical_headers(request.headers);
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{day}/{region}/{service}/aws4_request, SignedHeaders={}, Signature={}",
        keys.id,
        names.join(";"),
        HEXLOWER.encode(signature.as_ref())
    )
}
