//! Leases against a real PostgreSQL.

use chrono::{DateTime, TimeDelta, Utc};
use freehold_proto::id::{HostId, InstanceId, LeaseId};
use uuid::Uuid;

use super::{
    model::request::Asked,
    service::{self, Named},
    store::{self, LeaseFilter, LeaseRecord},
};
use crate::{
    app::App,
    database::request_id::Idempotency,
    error::{Error, Result},
    gate::Caller,
    page::Page,
    testing,
};

mod booking;
mod ending;
mod reconciling;
mod visibility;

const TYPE: &str = "gpu_8x_h100_sxm5";

fn asked() -> Asked {
    Asked {
        instance_type: TYPE.to_owned(),
        ..Asked::default()
    }
}

pub(crate) async fn create(app: &App, caller: &Caller, asked: Asked) -> Result<LeaseRecord> {
    service::create_lease(app, caller, ("", ""), asked, None).await
}

async fn get(app: &App, caller: &Caller, lease: &str) -> Result<LeaseRecord> {
    service::get_lease(app, caller, named(lease)).await
}

fn named(lease: &str) -> Named<'_> {
    Named {
        lease,
        organization: "",
        project: "",
    }
}

fn id_of(record: &LeaseRecord) -> String {
    LeaseId::from(record.lease.id).to_string()
}

fn host_of(record: &LeaseRecord) -> HostId {
    record.instances[0].host_id.unwrap().into()
}

async fn count(app: &App, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}

/// The database's time: what windows are measured against.
async fn now(app: &App) -> DateTime<Utc> {
    sqlx::query_scalar("select now()")
        .fetch_one(&app.pool)
        .await
        .unwrap()
}

async fn set_recorded(app: &App, instance: Uuid, state: &str) {
    sqlx::query("update instance set recorded = $2 where id = $1")
        .bind(instance)
        .bind(state)
        .execute(&app.pool)
        .await
        .unwrap();
}
