//! `-stream-format`.

use super::{Show, snapshots::with_broker};
use crate::base::error::Error;
use crate::base::stop::Stop;
use crate::config::Config;
use crate::model::set::Format;
use crate::nats::JetStream;
use crate::streams;
use serde_json::json;

/// Says in which form the streams' messages are to be published from now on. Running daemons follow within a minute.
pub fn stream_format(config: &Config, stop: &Stop, format: Format, show: Show) -> Result<(), Error> {
    let broker = with_broker(config, stop)?;
    let changed = streams::change_format(&JetStream::new(broker.connection.clone()), config, format);
    broker.stop();
    let changed = changed?;
    let name = format.name();
    show.print(
        || match changed.as_slice() {
            [] => format!("all streams hold {name} already"),
            streams => {
                format!("{name} from now on: {}; running daemons follow within a minute", streams.join(", "))
            }
        },
        || json!({ "format": name, "changed": changed }),
    );
    Ok(())
}
