//! `-autoincrement` and `-no-autoincrement`: whether the keys of a table can be steered.

use super::Show;
use crate::base::error::{Context, Error};
use crate::config::Config;
use crate::db;
use serde_json::json;

/// Makes the key of a table AUTOINCREMENT, or a plain one again; a daemon may run.
pub fn autoincrement(config: &Config, show: Show, table: &str, on: bool) -> Result<(), Error> {
    let path = &config.db_path;
    let changed = db::set_autoincrement(path, table, on).context(path.display())?;
    let kind = if on { "AUTOINCREMENT" } else { "a plain INTEGER PRIMARY KEY" };
    show.print(
        || format!("table {table}: its key is {kind}{}", if changed { " now" } else { " already" }),
        || json!({ "table": table, "autoincrement": on, "changed": changed }),
    );
    Ok(())
}
