//! `-init`: a configuration from a database and URLs, checked before it is written.

use super::Show;
use crate::base::error::{Context, Error, Kind};
use crate::base::stop::Stop;
use crate::base::{files, random, secret, temporary::Temporary};
use crate::broker::{Broker, server_version};
use crate::config;
use crate::db::{self, Seen};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the broker is waited for.
const WAIT: Duration = Duration::from_secs(6);
/// Where the configuration goes unless somebody says otherwise.
const FILE: &str = "harmonylite.toml";
/// What kept snapshots may take in the store unless somebody says otherwise.
const ROOM: u64 = 2_000_000_000;

/// What somebody wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub database: PathBuf,
    /// Empty: a nats-server of our own.
    pub nats: String,
    /// Empty: in NATS.
    pub store: String,
    pub node_id: Option<u64>,
    /// Where to.
    pub file: Option<PathBuf>,
    pub dry_run: bool,
}

/// Checks all, and writes the configuration.
pub fn init(wanted: &Wanted, stop: &Stop, show: Show) -> Result<(), Error> {
    let file = wanted.file.clone().unwrap_or_else(|| FILE.into());
    if file.symlink_metadata().is_ok() {
        let text = format!("{}: is there already, and is not changed", file.display());
        return Err(Error::new(Kind::Refused, text));
    }
    let database = std::path::absolute(&wanted.database)
        .map_err(|error| Error::local(format!("{}: {error}", wanted.database.display())))?;
    check_database(&database)?;
    let text = text(wanted, &database)?;
    let notes = check(&text, stop)?;
    if wanted.dry_run {
        show.print(
            || format!("# would be written to {}\n{}", file.display(), secret::redact(&text).trim_end()),
            || json!({ "file": file, "written": false, "notes": notes }),
        );
        return Ok(());
    }
    let mut out = files::create_private(&file)
        .map_err(|error| Error::local(error.to_string()))
        .context(file.display())?;
    out.write_all(text.as_bytes())
        .and_then(|()| out.sync_all())
        .map_err(|error| Error::local(format!("{}: {error}", file.display())))?;
    show.print(
        || {
            let notes: String = notes.iter().map(|note| format!("{note}\n")).collect();
            format!(
                "{notes}wrote {0}\nnext: harmonylite -config {0} -doctor, then harmonylite -config {0}\n\
                 as a service: harmonylite -config {0} -print-service systemd",
                file.display()
            )
        },
        || json!({ "file": file, "written": true, "notes": notes }),
    );
    Ok(())
}

fn check_database(path: &Path) -> Result<(), Error> {
    files::need_dir(path).map_err(|_| {
        Error::new(Kind::Missing, format!("-db {}: there is no such directory", path.display()))
    })?;
    match db::look(path) {
        Ok(Seen::Database | Seen::Nothing) => Ok(()),
        Ok(Seen::Another) => {
            Err(Error::new(Kind::Refused, format!("-db {}: this is no SQLite database", path.display())))
        }
        Err(error) => Err(Error::local(format!("-db {}: {error}", path.display()))),
    }
}

/// A text in TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn text(wanted: &Wanted, database: &Path) -> Result<String, Error> {
    let database = database.to_str().ok_or_else(|| Error::usage("-db: not UTF-8"))?;
    let node_id = wanted.node_id.unwrap_or_else(|| u64::from(random::random_u32()).max(1));
    let urls = if wanted.nats.is_empty() {
        "urls = []        # a nats-server of our own\n".to_owned()
    } else {
        let urls: Vec<String> = wanted.nats.split(',').map(|url| quoted(url.trim())).collect();
        format!("urls = [{}]\n", urls.join(", "))
    };
    Ok(format!(
        "# Written by harmonylite -init. All keys: harmonylite -help configuration\n\
         db_path = {}\n\
         node_id = {node_id}        # another one on each node\n\
         \n\
         [nats]\n\
         {urls}\
         \n\
         [snapshot]\n\
         interval = 3600000        # milliseconds: a changed database is stored each hour\n\
         keep = {}        # so many of them stay: what a mistake took is in an older one\n\
         {}\
         \n\
         [health_check]\n\
         enable = true\n\
         bind = \"127.0.0.1:8090\"        # http://127.0.0.1:8090/ shows how all nodes are\n",
        quoted(database),
        kept(wanted.database.metadata().map_or(0, |meta| meta.len())),
        store(&wanted.store)?
    ))
}

/// Snapshots that stay: a day of them, or as many as take two gigabytes.
fn kept(size: u64) -> u64 {
    (ROOM / size.max(1)).clamp(2, 24)
}

/// The keys of the store that a URL names.
fn store(url: &str) -> Result<String, Error> {
    let unfit = || {
        let accepted = "nats:, s3://ENDPOINT/BUCKET[/PATH], https:// (WebDAV), sftp://..., file:///DIRECTORY";
        Error::usage(format!("-store {}: accepted is {accepted}", secret::redact(url)))
    };
    let (scheme, rest) = url.split_once(':').unwrap_or(("nats", ""));
    Ok(match scheme {
        "nats" => "store = \"nats\"\n".to_owned(),
        "file" => format!("store = \"file\"\nfile.path = {}\n", quoted(url)),
        "sftp" => format!("store = \"sftp\"\nsftp.url = {}\n", quoted(url)),
        "http" | "https" => format!("store = \"webdav\"\nwebdav.url = {}\n", quoted(url)),
        "s3" | "s3+http" => {
            let place = rest.strip_prefix("//").ok_or_else(unfit)?;
            let (endpoint, place) = place.split_once('/').ok_or_else(unfit)?;
            let (bucket, path) = place.split_once('/').unwrap_or((place, ""));
            if endpoint.is_empty() || bucket.is_empty() {
                return Err(unfit());
            }
            format!(
                "store = \"s3\"\ns3.endpoint = {}\ns3.use_ssl = {}\ns3.bucket = {}\ns3.path = {}\n",
                quoted(endpoint),
                scheme == "s3",
                quoted(bucket),
                quoted(path)
            )
        }
        _ => return Err(unfit()),
    })
}

/// Reads the configuration as the daemon will, and asks the broker whether it lets us in.
fn check(text: &str, stop: &Stop) -> Result<Vec<String>, Error> {
    let failed = |error: std::io::Error| Error::local(format!("temporary file: {error}"));
    let file = Temporary::new(&std::env::temp_dir(), Path::new(FILE), "init").map_err(failed)?;
    std::fs::write(file.path(), text).map_err(failed)?;
    let name = file.path().display().to_string();
    let (config, warnings) = config::load(Some(file.path()), None).map_err(|errors| {
        let lines: Vec<String> =
            errors.iter().map(|error| error.to_string().replace(&name, "-init")).collect();
        Error::usage(lines.join("\n"))
    })?;
    let mut notes: Vec<String> = warnings.iter().map(|warning| warning.replace(&name, "note")).collect();
    if config.nats.urls.is_empty() {
        notes.push(format!("nats-server: {}", server_version(&config)?));
        return Ok(notes);
    }
    let broker = Broker::start(&config, stop)?;
    let up = broker.connection.wait_up(WAIT);
    let payload = broker.connection.max_payload();
    broker.stop();
    up.context("-nats")?;
    notes.push(format!("the broker lets this node in, with messages of up to {payload} bytes"));
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_database_is_kept_for_a_day_and_a_large_one_twice() {
        assert_eq!([0, 1 << 20, 200_000_000, 5_000_000_000].map(kept), [24, 24, 10, 2]);
    }

    #[test]
    fn each_store_becomes_keys_that_the_configuration_takes() {
        let scratch = crate::base::scratch::Scratch::new("init");
        let file = scratch.path("c.toml");
        for url in [
            "",
            "nats:",
            "s3://s3.example/bucket/a/b",
            "s3+http://127.0.0.1:9000/bucket",
            "https://u:p@h/dav?dir=/x",
            "sftp://u:p@h/dir",
            "file:///srv/snapshots",
        ] {
            let url = if url.starts_with("https") { "https://h/dav?dir=/x&login=u&secret=p" } else { url };
            let wanted = Wanted { store: url.into(), nats: "nats://h, tls://g".into(), ..Wanted::default() };
            std::fs::write(&file, text(&wanted, Path::new("/d/a \"b\".db")).unwrap()).unwrap();
            let (config, _) =
                config::load(Some(&file), None).unwrap_or_else(|errors| panic!("{url}: {errors:?}"));
            assert_eq!(config.db_path, Path::new("/d/a \"b\".db"));
            assert_eq!(config.nats.urls, ["nats://h", "tls://g"]);
        }
        for url in ["ftp://h", "s3:/x", "s3://h", "s3://h/"] {
            assert_eq!(store(url).unwrap_err().kind(), Kind::Usage, "{url}");
        }
    }
}
