//! What could be leased, when and at which price. Holds nothing.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    model::{
        placement::Sector,
        request,
        slots::{Slot, Wish, earliest_slots},
        span::Span,
    },
    store::{self, Need, PriceRow, Unmet},
};
use crate::{
    app::App,
    error::{Error, Result},
    gate::Caller,
};

/// Offers of one answer.
const MAX_OFFERS: usize = 6;

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Name or id.
    pub instance_type: String,
    /// `None`: 1.
    pub count: Option<i32>,
    /// `None`: now.
    pub start: Option<DateTime<Utc>>,
    /// `None`: open-ended.
    pub hours: Option<i32>,
}

/// A concrete quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The type's name.
    pub instance_type: String,
    /// Instances, all in the sector.
    pub count: i32,
    /// Where.
    pub sector: Sector,
    /// Start of the window.
    pub start: DateTime<Utc>,
    /// Its end; `None`: open-ended.
    pub end: Option<DateTime<Utc>>,
    /// What a GPU-hour costs.
    pub price: PriceRow,
    /// What the whole window would cost, in micros of the price's currency; `None`: open-ended.
    pub estimated_cost_micros: Option<i64>,
    /// Hosts of the sector that could serve the window.
    pub available_hosts: usize,
}

/// What fits, sector by sector; where nothing does, the earliest windows that would. At most 6.
///
/// # Errors
/// `InvalidField` for what cannot be asked for.
pub async fn search(app: &App, caller: &Caller, search: &Search) -> Result<Vec<Offer>> {
    let count = request::check_count(search.count)?;
    request::check_hours(search.hours)?;
    let mut connection = app.pool.acquire().await?;
    let item =
        store::find_item(&mut connection, &search.instance_type, caller.organization).await?;
    let window = request::window(search.start, search.hours, item.now)?;
    let need = store::need(app, &item, count, &window)?;
    let wanted = usize::try_from(count).unwrap_or(usize::MAX);
    let mut slots: Vec<Slot> = store::free_by_sector(&mut connection, &need)
        .await?
        .into_iter()
        .filter(|(_, hosts)| *hosts >= wanted)
        .map(|(sector, hosts)| Slot {
            sector,
            start: window.from,
            hosts,
        })
        .collect();
    if slots.is_empty() {
        slots = later_slots(app, &need, &window).await?;
    }
    let length = window.to.map(|to| to - window.from);
    Ok(slots
        .into_iter()
        .take(MAX_OFFERS)
        .map(|slot| Offer {
            instance_type: item.type_name.clone(),
            count,
            sector: slot.sector,
            start: slot.start,
            end: length.map(|length| slot.start + length),
            estimated_cost_micros: length
                .map(|length| cost_micros(&item.price, item.gpu_count, count, length)),
            price: item.price.clone(),
            available_hosts: slot.hosts,
        })
        .collect())
}

async fn later_slots(app: &App, need: &Need, window: &Span) -> Result<Vec<Slot>> {
    let candidates = store::calendars(&mut *app.pool.acquire().await?, need).await?;
    let wish = Wish {
        from: window.from,
        length: window.to.map(|to| to - window.from),
        count: usize::try_from(need.count).unwrap_or(usize::MAX),
        now: need.now,
    };
    let margins = store::margins(app)?;
    Ok(earliest_slots(&candidates, &wish, margins))
}

/// What a window of whole hours costs: price × GPUs × hours, rounded up to a micro.
fn cost_micros(price: &PriceRow, gpus: i32, count: i32, length: TimeDelta) -> i64 {
    let gpu_hours = i128::from(length.num_hours()) * i128::from(gpus) * i128::from(count);
    let quantity = i128::from(price.quantity.max(1));
    let total = i128::from(price.micros) * gpu_hours;
    i64::try_from((total + quantity - 1) / quantity).unwrap_or(i64::MAX)
}

/// Why a booking found no hosts: how many are free, when enough will be, and what to do.
pub(super) async fn no_capacity(app: &App, unmet: &Unmet) -> Result<Error> {
    let free = store::free_by_sector(&mut *app.pool.acquire().await?, &unmet.need).await?;
    let most = free.iter().map(|(_, hosts)| *hosts).max().unwrap_or(0);
    let slots = later_slots(app, &unmet.need, &unmet.window).await?;
    Ok(Error::NoCapacity(no_capacity_in_words(
        &unmet.item.type_name,
        unmet.need.count,
        most,
        &slots,
    )))
}

fn no_capacity_in_words(type_name: &str, count: i32, most: usize, slots: &[Slot]) -> String {
    let hosts = if count == 1 { "host" } else { "hosts" };
    let within = if count == 1 { "" } else { " in one sector" };
    let free =
        format!("{most} of {count} {hosts} of type {type_name} are free{within} for this window");
    let shown = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let Some(first) = slots.first() else {
        return format!(
            "{free}, and none later: the hosts there are, if any, are leased without an end or out of service; try another type, fewer \
             instances or a window with an end (--hours)"
        );
    };
    let others: Vec<String> = slots
        .iter()
        .skip(1)
        .take(2)
        .map(|slot| format!("{} in sector {}", shown(slot.start), slot.sector.name))
        .collect();
    let others = if others.is_empty() {
        String::new()
    } else {
        format!(", then {}", others.join(", then "))
    };
    let start = shown(first.start);
    format!(
        "{free}; the earliest is {start} in sector {}{others}: try --start {start}",
        first.sector.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(hours: i64, sector: &str) -> Slot {
        Slot {
            sector: Sector {
                region: "here".to_owned(),
                name: sector.to_owned(),
            },
            start: DateTime::UNIX_EPOCH + TimeDelta::hours(hours),
            hosts: 1,
        }
    }

    #[test]
    fn no_capacity_says_what_is_free_and_what_to_try() {
        let words = no_capacity_in_words("gpu_8x", 1, 0, &[slot(1, "a"), slot(2, "b")]);
        assert_eq!(
            words,
            "0 of 1 host of type gpu_8x are free for this window; the earliest is 1970-01-01T01:00:00Z in sector a, then \
             1970-01-01T02:00:00Z in sector b: try --start 1970-01-01T01:00:00Z"
        );
        assert!(no_capacity_in_words("gpu_8x", 4, 3, &[]).starts_with("3 of 4 hosts"));
    }

    #[test]
    fn an_estimate_is_exact_and_does_not_overflow() {
        let price = |micros, quantity| PriceRow {
            id: uuid::Uuid::nil(),
            micros,
            quantity,
            unit: "gpu_hour".to_owned(),
            currency: "USD".to_owned(),
            rounding: "hour".to_owned(),
            valid_from: None,
            valid_to: None,
        };
        let day = TimeDelta::hours(24);
        assert_eq!(cost_micros(&price(1_890_000, 1), 8, 2, day), 725_760_000);
        assert_eq!(cost_micros(&price(1, 1000), 1, 1, day), 1);
        assert_eq!(cost_micros(&price(i64::MAX, 1), 8, 1024, day), i64::MAX);
    }
}
