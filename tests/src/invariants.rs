//! What must hold in the database of every deployment, whatever was done to it.

use sqlx::PgPool;

/// Each finds what must not be, one text a row.
const VIOLATIONS: [(&str, &str); 6] = [
    (
        "two bookings have one GPU at the same time",
        "select a.host_id || ': ' || a.kind || a.during || ' and ' || b.kind || b.during from occupancy a
         join occupancy b on a.host_id = b.host_id and a.id < b.id and a.gpus && b.gpus and a.during && b.during",
    ),
    (
        "two instances run on one host",
        "select host_id || ': ' || string_agg(id::text, ', ') from instance
         where recorded in ('provisioning', 'usable', 'impaired', 'ending') group by host_id having count(*) > 1",
    ),
    (
        "an instance that runs has no booking",
        "select i.id || ' is ' || i.recorded from instance i
         where i.recorded in ('placed', 'provisioning', 'usable', 'impaired', 'ending')
             and not exists (select 1 from occupancy o where o.instance_id = i.id and o.host_id = i.host_id)",
    ),
    (
        "something was billed that was never usable",
        "select u.id::text from usage_record u join instance i on i.id = u.instance_id where i.usable_at is null",
    ),
    (
        // Each record may round a part of a second up.
        "more was metered than was usable, or not by the tenant's own fault",
        "select u.instance_id || ': ' || u.seconds || ' s of ' || coalesce(a.seconds, 0) from (
             select instance_id, sum(usable_seconds) as seconds, count(*) as records from usage_record group by instance_id
         ) u left join (
             select instance_id, sum(extract(epoch from coalesce(to_at, now()) - from_at)) as seconds from availability
             where replaced_at is null and (state = 'usable' or fault_party = 'tenant') group by instance_id
         ) a using (instance_id) where u.seconds > coalesce(a.seconds, 0) + u.records",
    ),
    (
        "the ledger does not sum to zero",
        "select currency || ' ' || sum(amount_micros) from ledger_entry group by currency having sum(amount_micros) <> 0",
    ),
];

/// Checks all of them.
///
/// # Panics
/// Names what is violated, and by which rows.
pub async fn assert_hold(database: &PgPool) {
    for (what, query) in VIOLATIONS {
        let found: Vec<String> = sqlx::query_scalar(query)
            .fetch_all(database)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(found.is_empty(), "{what}: {found:#?}");
    }
}
