//! Our S3 signatures against those of others: the official test suite for AWS Signature Version 4, and the AWS SDK's own
//! signer (both in the crate `aws-sigv4`).

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign as sdk_sign,
};
use harmonylite::testing::Secret;
use harmonylite::testing::storage::{Keys, Signable, canonical_request, sign, string_to_sign};
use harmonylite::testing::urls::{escape, escape_path};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Where cargo keeps the suite's crate: for this platform alone, so that nothing has to be fetched.
fn suite() -> PathBuf {
    let host = Command::new("rustc").arg("-vV").output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "aws-sigv4").unwrap();
    let manifest = Path::new(package["manifest_path"].as_str().unwrap());
    manifest.parent().unwrap().join("aws-signing-test-suite/v4")
}

/// `request.txt`: request line, headers (some folded), an empty line, the body.
struct Case {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: String,
}

fn parse(text: &str) -> Case {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let first = lines.next().unwrap();
    let (method, rest) = first.split_once(' ').unwrap();
    let target = rest.strip_suffix(" HTTP/1.1").unwrap();
    let mut headers: Vec<(String, String)> = vec![];
    for line in lines {
        if line.starts_with(char::is_whitespace) {
            let last = headers.last_mut().unwrap();
            last.1 = format!("{} {}", last.1, line.trim());
        } else {
            let (name, value) = line.split_once(':').unwrap();
            headers.push((name.to_owned(), value.to_owned()));
        }
    }
    Case { method: method.to_owned(), target: target.to_owned(), headers, body: body.to_owned() }
}

/// What other services than S3 do to a path: dots and double slashes go.
fn normalized(path: &str) -> String {
    let mut parts: Vec<&str> = vec![];
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

#[test]
fn the_official_suite() {
    let mut passed = 0;
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(suite()).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    // Two cases are about a second escaping, which S3 does not have.
    cases.retain(|dir| dir.join("context.json").exists() && dir.join("header-signature.txt").exists());
    for dir in cases {
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        let context: serde_json::Value = serde_json::from_str(&read("context.json")).unwrap();
        let text = |key: &str| context[key].as_str().unwrap().to_owned();
        let case = parse(&read("request.txt"));
        let time: String = text("timestamp").chars().filter(|c| !matches!(c, '-' | ':')).collect();
        let (path, query) = case.target.split_once('?').unwrap_or((&case.target, ""));
        let path = if context["normalize"] == true { normalized(path) } else { path.to_owned() };
        let decoded = |text: &str| harmonylite::testing::urls::unescape(text).unwrap();
        // Escaped once, as we send it.
        let path = escape_path(&decoded(&path));
        let query: Vec<(String, String)> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let mut headers = case.headers.clone();
        headers.push(("X-Amz-Date".to_owned(), time.clone()));
        let hash = harmonylite::testing::digest::hex_sha256(case.body.as_bytes());
        if context["sign_body"] == true {
            headers.push(("x-amz-content-sha256".to_owned(), hash.clone()));
        }
        let credentials = &context["credentials"];
        let token = credentials["token"].as_str().unwrap_or_default();
        let after = context["omit_session_token"] == true;
        if !token.is_empty() && !after {
            headers.push(("X-Amz-Security-Token".to_owned(), token.to_owned()));
        }
        let request = Signable {
            method: &case.method,
            path: &path,
            query: &query,
            headers: &headers,
            body_hash: &hash,
        };
        let keys = Keys {
            id: credentials["access_key_id"].as_str().unwrap().to_owned(),
            secret: Secret::new(credentials["secret_access_key"].as_str().unwrap()),
            token: Secret::default(),
        };
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let canonical = canonical_request(&request);
        assert_eq!(canonical, read("header-canonical-request.txt"), "{name}");
        let (region, service) = (text("region"), text("service"));
        assert_eq!(
            string_to_sign(&canonical, &time, &region, &service),
            read("header-string-to-sign.txt"),
            "{name}"
        );
        let header = sign(&request, &keys, &time, &region, &service);
        let signature = header.rsplit_once("Signature=").unwrap().1;
        assert_eq!(signature, read("header-signature.txt").trim(), "{name}");
        passed += 1;
    }
    assert!(passed >= 38, "{passed} cases");
    eprintln!("{passed} cases");
}

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const MORE: [(&str, &str); 2] =
    [("content-md5", "abc=="), ("x-amz-meta-harmonylite-position", "a-1=5  ~2=7")];

/// The `Authorization` header that the SDK makes.
fn sdk(method: &str, url: &str, token: &str, body: &str) -> String {
    let token = (!token.is_empty()).then(|| token.to_owned());
    let identity = aws_credential_types::Credentials::new(ID, SECRET, token, None, "test").into();
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let parameters = aws_sigv4::sign::v4::SigningParams::builder()
        .identity(&identity)
        .region("eu-west-1")
        .name("s3")
        .time(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_526_100))
        .settings(settings)
        .build()
        .unwrap()
        .into();
    let body = SignableBody::Bytes(body.as_bytes());
    let request = SignableRequest::new(method, url, MORE.iter().copied(), body).unwrap();
    let (instructions, _) = sdk_sign(request, &parameters).unwrap().into_parts();
    instructions.headers().find(|(name, _)| *name == "authorization").unwrap().1.to_owned()
}

/// Requests as we send them to S3, signed by the SDK as well.
#[test]
fn the_sdk_signs_the_same() {
    let keys = ["", "a", "snapshots/cluster-1/snapshot.db", "x y/ü%~!*'()/+=&?#", "a//b/../c/./d", "-._~"];
    let queries: [&[(&str, &str)]; 4] = [
        &[],
        &[("uploads", "")],
        &[("partNumber", "7"), ("uploadId", "a/b+c==&x y")],
        &[("list-type", "2"), ("prefix", "x/ü "), ("continuation-token", "1/2+3=")],
    ];
    let mut count = 0;
    for (key, query) in keys.into_iter().flat_map(|key| queries.map(|query| (key, query))) {
        for (method, token) in [("GET", ""), ("PUT", "to/ken+=="), ("POST", ""), ("DELETE", "t")] {
            let body = format!("{method}{key}");
            let path = format!("/bucket/{}", escape_path(key));
            let query: Vec<(String, String)> =
                query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let pairs: Vec<String> =
                query.iter().map(|(n, v)| format!("{}={}", escape(n), escape(v))).collect();
            let mark = if pairs.is_empty() { "" } else { "?" };
            let url = format!("http://127.0.0.1:9000{path}{mark}{}", pairs.join("&"));
            let hash = harmonylite::testing::digest::hex_sha256(body.as_bytes());
            let mut headers = MORE.to_vec();
            headers.extend([
                ("host", "127.0.0.1:9000"),
                ("x-amz-content-sha256", hash.as_str()),
                ("x-amz-date", "20261124T131500Z"),
            ]);
            if !token.is_empty() {
                headers.push(("x-amz-security-token", token));
            }
            let headers: Vec<(String, String)> =
                headers.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            let request =
                Signable { method, path: &path, query: &query, headers: &headers, body_hash: &hash };
            let keys = Keys { id: ID.into(), secret: Secret::new(SECRET), token: Secret::default() };
            let ours = sign(&request, &keys, "20261124T131500Z", "eu-west-1", "s3");
            assert_eq!(ours, sdk(method, &url, token, &body), "{method} {url}");
            count += 1;
        }
    }
    eprintln!("{count} requests");
}
