//! Access keys for S3: from the configuration, the environment, or the shared credentials file.

use crate::base::secret::Secret;
use crate::storage::options::Keys;
use std::path::PathBuf;

/// The first source that has a key id and a secret: `configured`, the environment (`AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, then MinIO's names), the shared credentials file
/// (`AWS_SHARED_CREDENTIALS_FILE` or `~/.aws/credentials`, profile `AWS_PROFILE` or `default`).
pub fn find(configured: Option<Keys>, environment: &dyn Fn(&str) -> Option<String>) -> Option<Keys> {
    configured.or_else(|| from_environment(environment)).or_else(|| from_file(environment))
}

fn from_environment(environment: &dyn Fn(&str) -> Option<String>) -> Option<Keys> {
    let first = |names: &[&str]| names.iter().filter_map(|name| environment(name)).find(|v| !v.is_empty());
    for (ids, secrets) in [
        (&["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"][..], &["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"][..]),
        (&["MINIO_ROOT_USER", "MINIO_ACCESS_KEY"][..], &["MINIO_ROOT_PASSWORD", "MINIO_SECRET_KEY"][..]),
    ] {
        if let (Some(id), Some(secret)) = (first(ids), first(secrets)) {
            let token = if ids[0].starts_with("AWS") { first(&["AWS_SESSION_TOKEN"]) } else { None };
            let token = Secret::new(token.unwrap_or_default());
            return Some(Keys { id, secret: Secret::new(secret), token });
        }
    }
    None
}

fn from_file(environment: &dyn Fn(&str) -> Option<String>) -> Option<Keys> {
    let path = match environment("AWS_SHARED_CREDENTIALS_FILE") {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => PathBuf::from(environment("HOME")?).join(".aws/credentials"),
    };
    let text = std::fs::read_to_string(path).ok()?;
    let profile = environment("AWS_PROFILE").filter(|p| !p.is_empty()).unwrap_or_else(|| "default".into());
    parse(&text, &profile)
}

/// The key of one profile of a credentials file.
fn parse(text: &str, profile: &str) -> Option<Keys> {
    let (mut inside, mut id, mut secret, mut token) = (false, None, None, String::new());
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name.trim() == profile;
        } else if let (true, Some((key, value))) = (inside, line.split_once('=')) {
            let value = value.trim().to_owned();
            match key.trim() {
                "aws_access_key_id" => id = Some(value),
                "aws_secret_access_key" => secret = Some(value),
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    Some(Keys { id: id?, secret: Secret::new(secret?), token: Secret::new(token) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;
    use std::collections::HashMap;

    fn found(configured: Option<Keys>, variables: &[(&str, &str)]) -> Option<(String, String, String)> {
        let variables: HashMap<String, String> =
            variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let keys = find(configured, &|name| variables.get(name).cloned())?;
        Some((keys.id.clone(), keys.secret.expose().to_owned(), keys.token.expose().to_owned()))
    }

    #[test]
    fn three_sources_in_their_order() {
        let scratch = Scratch::new("keys");
        let path = scratch.path("credentials");
        std::fs::write(
            &path,
            "# x\n[default]\naws_access_key_id = F\naws_secret_access_key=FS\n\n[other]\naws_access_key_id=O\n\
             aws_secret_access_key = OS\naws_session_token = OT\n",
        )
        .unwrap();
        let file = ("AWS_SHARED_CREDENTIALS_FILE", path.to_str().unwrap());
        let own = |a: &str, b: &str, c: &str| Some((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(found(None, &[file]), own("F", "FS", ""));
        assert_eq!(found(None, &[file, ("AWS_PROFILE", "other")]), own("O", "OS", "OT"));
        assert_eq!(found(None, &[file, ("AWS_PROFILE", "none")]), None);
        let environment =
            [file, ("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "ES"), ("AWS_SESSION_TOKEN", "T")];
        assert_eq!(found(None, &environment), own("E", "ES", "T"));
        let configured = Keys { id: "C".into(), secret: Secret::new("CS"), token: Secret::default() };
        assert_eq!(found(Some(configured), &environment), own("C", "CS", ""));
        assert_eq!(found(None, &[("AWS_ACCESS_KEY_ID", "half")]), None);
        let minio = [("MINIO_ROOT_USER", "M"), ("MINIO_ROOT_PASSWORD", "MS"), ("AWS_SESSION_TOKEN", "T")];
        assert_eq!(found(None, &minio), own("M", "MS", ""), "the token belongs to another key");
    }
}
