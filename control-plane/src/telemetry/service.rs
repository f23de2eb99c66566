//! Use cases of telemetry.

use freehold_proto::id::HostId;

use super::{
    model::{Sample, Shown, View},
    store,
};
use crate::{
    app::App,
    error::{Error, Result},
    gate::Caller,
    hosts,
};

/// What a host's GPUs do, as far as the caller may see it. A host that the caller has nothing on does not exist.
pub(super) async fn get_host_telemetry(
    app: &App,
    caller: &Caller,
    host: &str,
    minutes: i32,
) -> Result<(HostId, Shown)> {
    let minutes = match minutes {
        0 => 15,
        minutes @ 1..=1440 => minutes,
        _ => return Err(Error::field("minutes", "must be 1 to 1440, or 0 for 15")),
    };
    let mut connection = app.pool.acquire().await?;
    let id = hosts::find_host(&mut connection, host).await?;
    let view = if caller.sees_all() {
        Some(View::Whole)
    } else {
        store::view_of(&mut connection, id, caller.organization, caller.project).await?
    };
    let view = view.ok_or_else(|| Error::not_found("host", host))?;
    let shown = Shown {
        sample: newer(
            app.telemetry.latest(id),
            store::latest(&mut connection, id).await?,
        ),
        rollups: store::rollups(&mut connection, id, minutes).await?,
        events: store::events(&mut connection, id, view.since()).await?,
    };
    Ok((id, view.narrow(shown)))
}

/// This replica has the newest sample, unless the agent sends to another.
fn newer(here: Option<Sample>, written: Option<Sample>) -> Option<Sample> {
    match (here, written) {
        (Some(here), Some(written)) if written.at > here.at => Some(written),
        (Some(here), _) => Some(here),
        (None, written) => written,
    }
}
