//! A booking: every row of it in one transaction.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use freehold_proto::id::{
    HostId, InstanceId, LeaseId, OccupancyId, OrganizationId, ProjectId, SegmentId,
};
use rand::Rng as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    hosts::{Need, claim_hosts},
    item::{Item, find_item, need},
};
use crate::{
    app::App,
    audit,
    database::{
        Signal, notify,
        request_id::{Claim, Idempotency, claim},
    },
    error::{Error, Result, is_retryable, violates},
    gate::Caller,
    leases::model::{
        placement::Plan,
        request::{self, Reservation},
        span::Span,
    },
    organizations::scope,
};

/// How often a booking is tried again when others took its hosts between the choice and the booking.
const ATTEMPTS: u32 = 12;

/// A booking that is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Create<'a> {
    /// Whoever asks.
    pub caller: &'a Caller,
    /// Id or name; empty: the caller's.
    pub organization: &'a str,
    /// Id or name; empty: the caller's, or `default`.
    pub project: &'a str,
    /// What is asked for.
    pub reservation: &'a Reservation,
    /// Set when the request may be repeated.
    pub idempotency: Option<&'a Idempotency>,
}

/// What a booking that found no hosts would have needed.
#[derive(Debug, Clone)]
pub(crate) struct Unmet {
    pub(crate) item: Item,
    pub(crate) need: Need,
    pub(crate) window: Span,
}

/// How a booking went.
pub(crate) enum Booked {
    Lease(LeaseId),
    /// Nothing was booked.
    NoHosts(Box<Unmet>),
}

/// The name under which an instance's scratch key is sealed.
#[must_use]
pub fn scratch_secret_name(instance: InstanceId) -> String {
    format!("scratch:{instance}")
}

/// Books a lease, trying again with a fresh snapshot while others are faster.
///
/// # Errors
/// For what is not acceptable, and `Contention` when others were faster every time.
pub(crate) async fn create_lease(app: &App, create: Create<'_>) -> Result<Booked> {
    let mut pause_ms = 1_u64;
    for _ in 0..ATTEMPTS {
        match try_create(app, create).await {
            Err(Attempt::Again) => {}
            Err(Attempt::Failed(error)) => return Err(error),
            Ok(booked) => return Ok(booked),
        }
        let jitter = rand::rng().random_range(0..=pause_ms);
        tokio::time::sleep(Duration::from_millis(jitter)).await;
        pause_ms = (pause_ms * 2).min(100);
    }
    Err(Error::Contention(
        "others booked the hosts that were chosen, again and again; try again, with the same request id if one was given".to_owned(),
    ))
}

enum Attempt {
    /// Somebody else was faster; a fresh snapshot may find other hosts.
    Again,
    Failed(Error),
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<sqlx::Error> for Attempt {
    fn from(error: sqlx::Error) -> Self {
        if is_retryable(&error) || violates(&error, "occupancy_no_double_booking") {
            Self::Again
        } else {
            Self::Failed(error.into())
        }
    }
}

async fn try_create(app: &App, create: Create<'_>) -> std::result::Result<Booked, Attempt> {
    let mut tx = app.pool.begin().await?;
    let id = LeaseId::new();
    if let Claim::Repeat(earlier) = claim(&mut tx, create.idempotency, id.uuid()).await? {
        return Ok(Booked::Lease(earlier.into()));
    }
    let (organization, project) =
        scope::target(&mut tx, create.caller, create.organization, create.project).await?;
    let reservation = create.reservation;
    let item = find_item(&mut tx, &reservation.instance_type, organization).await?;
    let window = request::window(reservation.start, reservation.hours, item.now)?;
    let need = need(app, &item, reservation.count, &window)?;
    let Some(plan) = claim_hosts(&mut tx, &need, rand::random()).await? else {
        return Ok(Booked::NoHosts(Box::new(Unmet { item, need, window })));
    };
    let named = reservation.name.is_some();
    let name = reservation.name.clone().unwrap_or_else(made_name);
    let booking = Booking {
        id,
        organization,
        project,
        name,
        image: reservation
            .image
            .clone()
            .unwrap_or_else(|| app.config.default_image.clone()),
        window,
        scheduled: need.during.from > item.now,
        during: need.during,
        item,
        plan,
    };
    if let Err(error) = insert_lease(&mut tx, create, &booking).await {
        return Err(match error {
            error if violates(&error, "lease_name") && named => {
                Attempt::Failed(Error::AlreadyExists(format!(
                    "name: the project has a lease `{}` that has not ended; choose another name, or end that one",
                    booking.name
                )))
            }
            error if violates(&error, "lease_name") => Attempt::Again,
            error => error.into(),
        });
    }
    insert_instances(app, &mut tx, &booking).await?;
    audit::Entry::new(
        Some(create.caller.principal),
        Some(organization),
        "lease.create",
        id,
    )
    .with("name", &booking.name)
    .with("instance_type", &booking.item.type_name)
    .with("count", reservation.count)
    .write(&mut tx)
    .await?;
    notify(&mut tx, &Signal::Lease(id.uuid())).await?;
    tx.commit().await?;
    tracing::info!(lease.id = %id, sector = booking.plan.sector.name, count = reservation.count, "booked a lease");
    Ok(Booked::Lease(id))
}

/// `lease-` and six characters. A name that is taken is made again.
fn made_name() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = rand::rng();
    let tail: String = (0..6)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect();
    format!("lease-{tail}")
}

struct Booking {
    id: LeaseId,
    organization: OrganizationId,
    project: ProjectId,
    name: String,
    image: String,
    window: Span,
    /// True when the hosts are not needed yet.
    scheduled: bool,
    /// The window with its margins.
    during: Span,
    item: Item,
    plan: Plan,
}

/// The lease with its keys, its first segment and its first event, in one statement.
async fn insert_lease(
    connection: &mut PgConnection,
    create: Create<'_>,
    booking: &Booking,
) -> sqlx::Result<()> {
    let reservation = create.reservation;
    let (fingerprints, lines): (Vec<String>, Vec<String>) = reservation
        .ssh_keys
        .iter()
        .map(|key| (key.fingerprint.clone(), key.line.clone()))
        .unzip();
    let (state, reason) = first_state(booking);
    let price = &booking.item.price;
    sqlx::query!(
        "with lease_row as (
             insert into lease (id, organization_id, project_id, name, instance_type_id, count, image, labels, state, state_reason,
                 lease_window, created_by)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, tstzrange($11, $12), $13)
         ), segment_row as (
             insert into lease_segment (id, lease_id, during, price_id, price_micros, quantity, unit, currency, rounding)
             values ($14, $1, tstzrange($11, $12), $15, $20, $21, $22, $23, $24)
         ), key_rows as (
             insert into lease_ssh_key (lease_id, fingerprint, public_key)
             select $1, key.fingerprint, key.line from unnest($16::text[], $17::text[]) as key (fingerprint, line)
         )
         insert into lease_event (id, lease_id, kind, detail) values ($18, $1, 'booked', $19)",
        booking.id.uuid(),
        booking.organization.uuid(),
        booking.project.uuid(),
        booking.name,
        booking.item.type_id.uuid(),
        reservation.count,
        booking.image,
        labels_json(&reservation.labels),
        state,
        reason,
        booking.window.from,
        booking.window.to,
        create.caller.principal.uuid(),
        SegmentId::new().uuid(),
        price.id,
        &fingerprints,
        &lines,
        Uuid::now_v7(),
        booked_in_words(booking),
        price.micros,
        price.quantity,
        price.unit,
        price.currency,
        price.rounding
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn labels_json(labels: &BTreeMap<String, String>) -> serde_json::Value {
    labels
        .iter()
        .map(|(key, value)| (key.clone(), serde_json::Value::from(value.as_str())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn first_state(booking: &Booking) -> (&'static str, String) {
    use crate::leases::model::{
        instance::Recorded,
        lease::{Part, Snapshot, fold, reason},
    };
    let part = Part {
        ordinal: 0,
        recorded: Recorded::Placed,
        reason: "",
    };
    let snapshot = Snapshot {
        parts: &[part],
        begun: !booking.scheduled,
        start: booking.window.from,
        end_cause: None,
        failure: None,
    };
    (fold(&snapshot).as_str(), reason(&snapshot))
}

fn booked_in_words(booking: &Booking) -> String {
    let shown = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let end = booking.window.to.map_or_else(
        || "without an end".to_owned(),
        |to| format!("to {}", shown(to)),
    );
    format!(
        "{} × {} in sector {}, from {} {end}",
        booking.plan.hosts.len(),
        booking.item.type_name,
        booking.plan.sector.name,
        shown(booking.window.from),
    )
}

/// The instances with their hosts, in one statement. The exclusion constraint decides whether the hosts are theirs.
async fn insert_instances(
    app: &App,
    connection: &mut PgConnection,
    booking: &Booking,
) -> std::result::Result<(), Attempt> {
    let count = booking.plan.hosts.len();
    let ids: Vec<InstanceId> = (0..count).map(|_| InstanceId::new()).collect();
    let mut sealed = Vec::with_capacity(count);
    for id in &ids {
        let mut key = [0_u8; 64];
        rand::rng().fill(&mut key[..]);
        let name = scratch_secret_name(*id);
        sealed.push(app.pki.kek.seal(&name, &key).map_err(Error::internal)?);
    }
    let uuids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let ordinals: Vec<i32> = (0..).take(count).collect();
    let hosts: Vec<Uuid> = booking
        .plan
        .hosts
        .iter()
        .map(|host: &HostId| host.uuid())
        .collect();
    let occupancies: Vec<Uuid> = (0..count).map(|_| OccupancyId::new().uuid()).collect();
    sqlx::query!(
        "with node as (
             select * from unnest($2::uuid[], $3::int4[], $4::uuid[], $5::bytea[], $6::uuid[])
                 as node (id, ordinal, host_id, scratch_key, occupancy_id)
         ), instance_rows as (
             insert into instance (id, lease_id, ordinal, recorded, host_id, generation, gpu_uuids, scratch_key)
             select id, $1, ordinal, 'placed', host_id, 1,
                 array(select g.uuid from host_gpu g where g.host_id = node.host_id order by g.gpu_index), scratch_key
             from node
         ), incarnation_rows as (
             insert into incarnation (instance_id, generation, host_id) select id, 1, host_id from node
         )
         insert into occupancy (id, host_id, gpus, during, kind, instance_id, movable)
         select occupancy_id, host_id, int4range(0, $7), tstzrange($8, $9), 'lease', id, true from node order by host_id",
        booking.id.uuid(),
        &uuids,
        &ordinals,
        &hosts,
        &sealed,
        &occupancies,
        booking.item.gpu_count,
        booking.during.from,
        booking.during.to
    )
    .execute(connection)
    .await?;
    Ok(())
}
