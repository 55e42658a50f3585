//! The snapshot store: written, read, copied and cleaned up by a small file.

use super::Report;
use crate::base::error::Error;
use crate::base::stop::Stop;
use crate::base::temporary::Temporary;
use crate::broker::{Broker, open_store};
use crate::config::Config;

/// Looks at it.
pub fn look(config: &Config, report: &mut Report, broker: Option<&Broker>, stop: &Stop) {
    if !config.snapshot.enabled {
        let advice = "without snapshots a node that was away for long cannot come back by itself";
        return report.look("store", "snapshot.enabled = false", advice);
    }
    if !config.snapshot.store.is_apart_from_nats() && broker.is_none() {
        return report.good("store", "is in NATS, which is not looked at now");
    }
    let tried = open_store(config, broker.map(|broker| &broker.connection), stop).and_then(|store| {
        let dir = config.temp_dir();
        let failed = |error: std::io::Error| Error::local(format!("{}: {error}", dir.display()));
        let file = Temporary::new(&dir, &config.db_path, "doctor").map_err(failed)?;
        std::fs::write(file.path(), b"harmonylite -doctor looked whether this store serves\n")
            .map_err(failed)?;
        let count = store.probe(file.path())?;
        Ok((store.describe(), count))
    });
    match tried {
        Ok((name, count)) => {
            report.good("store", format!("{name}: written, read, copied, removed; {count} snapshots"));
        }
        Err(error) => {
            let advice =
                "is it reachable, are bucket or directory and login right, may this login write and delete?";
            report.broken("store", error.to_string(), advice);
        }
    }
}
