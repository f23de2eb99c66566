use chrono::{DateTime, TimeDelta, Utc};
use freehold_proto::v1::{self, catalog_service_server::CatalogService as _};
use tonic::Request;

use super::{
    model::{NewPrice, NewType, Rounding},
    rpc::CatalogRpc,
    service,
    store::PriceRow,
};
use crate::{
    app::App,
    database::request_id::Idempotency,
    error::{Error, Result},
    gate::Caller,
    page::Page,
    testing,
};

const TYPE: &str = "gpu_8x_h100_sxm5";

fn new_type(name: &str) -> NewType {
    NewType {
        name: name.to_owned(),
        gpu_model: "H100 80GB HBM3".to_owned(),
        gpu_count: 4,
        vcpus: 96,
        memory_gib: 900,
        scratch_gib: 3000,
        micros: 1_000_000,
        currency: "EUR".to_owned(),
        rounding: Rounding::Minute,
    }
}

async fn set(
    app: &App,
    caller: &Caller,
    micros: i64,
    from: Option<DateTime<Utc>>,
) -> Result<PriceRow> {
    let new = NewPrice {
        micros,
        from,
        rounding: None,
    };
    service::set_price(app, caller, TYPE, new, None).await
}

async fn prices(app: &App, caller: &Caller) -> Vec<(i64, Option<DateTime<Utc>>)> {
    let page = Page::parse(0, "").unwrap();
    let (rows, _) = service::list_prices(app, caller, TYPE, page).await.unwrap();
    rows.iter().map(|p| (p.micros, p.valid_to)).collect()
}

#[tokio::test]
async fn the_seeded_types_have_the_prices_of_a_gpu_hour_and_bill_started_hours() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let (items, next) = service::list_types(&app, &caller, Page::parse(0, "").unwrap())
        .await
        .unwrap();
    assert_eq!((items.len(), next.as_str()), (6, ""));
    let (_, price) = items.into_iter().find(|(row, _)| row.name == TYPE).unwrap();
    let price = price.unwrap();
    assert_eq!((price.micros, price.currency.as_str()), (1_890_000, "USD"));
    assert_eq!(
        (price.unit.as_str(), price.quantity, price.rounding.as_str()),
        ("gpu_hour", 1, "hour")
    );
}

#[tokio::test]
async fn a_created_type_is_listed_once_and_repeating_the_request_makes_no_other() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    let again = |name: &str| {
        let body = v1::CreateInstanceTypeRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        Idempotency::new(operator.principal, "instance_type.create", "r-1", &body).unwrap()
    };
    let new = new_type("gpu_4x_h100");
    let (first, price) = service::create_type(&app, &operator, &new, again("a").as_ref())
        .await
        .unwrap();
    let price = price.unwrap();
    assert_eq!(
        (price.currency.as_str(), price.rounding.as_str()),
        ("EUR", "minute")
    );
    let (second, _) = service::create_type(&app, &operator, &new, again("a").as_ref())
        .await
        .unwrap();
    assert_eq!(first.id, second.id);
    let other = service::create_type(&app, &operator, &new, again("b").as_ref()).await;
    assert!(matches!(other, Err(Error::RequestIdReused(_))));
    let taken = service::create_type(&app, &operator, &new, None).await;
    assert!(matches!(taken, Err(Error::AlreadyExists(_))));
    let by_name = service::get_type(&app, &operator, "gpu_4x_h100")
        .await
        .unwrap();
    assert_eq!(by_name.0.id, first.id);
    let missing = service::get_type(&app, &operator, "gpu_5x").await;
    assert!(matches!(missing, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn a_new_price_closes_the_one_before_and_gives_way_to_the_one_set_for_later() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    let later = Utc::now() + TimeDelta::days(30);
    let scheduled = set(&app, &operator, 3_000_000, Some(later)).await.unwrap();
    assert_eq!(scheduled.rounding, "hour");
    let now = set(&app, &operator, 2_000_000, None).await.unwrap();
    assert_eq!(now.valid_to, Some(scheduled.valid_from));
    assert_eq!(
        prices(&app, &operator).await,
        [
            (3_000_000, None),
            (2_000_000, Some(scheduled.valid_from)),
            (1_890_000, Some(now.valid_from))
        ]
    );
    let replaced = set(&app, &operator, 4_000_000, Some(scheduled.valid_from))
        .await
        .unwrap();
    assert_eq!(replaced.valid_from, scheduled.valid_from);
    let (_, holds) = service::get_type(&app, &operator, TYPE).await.unwrap();
    assert_eq!(holds.unwrap().micros, 2_000_000);
    assert_eq!(prices(&app, &operator).await.len(), 3);
    let past = set(
        &app,
        &operator,
        1,
        Some(Utc::now() - TimeDelta::minutes(10)),
    )
    .await;
    let past = past.unwrap_err().to_string();
    assert!(past.starts_with("valid_from: lies in the past"), "{past}");
}

#[tokio::test]
async fn prices_that_are_set_at_once_never_overlap() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    let setting = (0..8).map(|micros| set(&app, &operator, micros, None));
    for result in futures_util::future::join_all(setting).await {
        match result {
            Ok(_) | Err(Error::Contention(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let open: i64 = sqlx::query_scalar(
        "select count(*) from price p join instance_type t on t.id = p.instance_type_id where t.name = $1 and upper_inf(valid)",
    )
    .bind(TYPE)
    .fetch_one(&app.pool)
    .await
    .unwrap();
    assert_eq!(open, 1);
}

#[tokio::test]
async fn prices_are_paged_newest_validity_first() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    for day in 1..=4 {
        set(
            &app,
            &operator,
            day,
            Some(Utc::now() + TimeDelta::days(10 - day)),
        )
        .await
        .unwrap();
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = Page::parse(2, &token).unwrap();
        let (rows, next) = service::list_prices(&app, &operator, TYPE, page)
            .await
            .unwrap();
        seen.extend(rows.iter().map(|row| row.micros));
        token = next;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [1, 2, 3, 4, 1_890_000]);
}

#[tokio::test]
async fn offers_name_window_sector_price_and_cost() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let rpc = CatalogRpc::new(app.clone());
    let ask = |hours, count, instance_type: &str| {
        let mut request = Request::new(v1::SearchOffersRequest {
            instance_type: instance_type.to_owned(),
            count,
            hours,
            start_time: None,
        });
        request.extensions_mut().insert(caller.clone());
        request
    };
    let offers = rpc
        .search_offers(ask(2, 0, TYPE))
        .await
        .unwrap()
        .into_inner()
        .offers;
    let offer = &offers[0];
    assert_eq!((offer.count, offer.sector.as_str()), (1, "sector-1"));
    assert_eq!(offer.price.as_ref().unwrap().rounding(), v1::Rounding::Hour);
    let cost = offer.estimated_cost.as_ref().unwrap();
    assert_eq!(
        (cost.micros, cost.currency.as_str()),
        (2 * 8 * 1_890_000, "USD")
    );
    let open = rpc.search_offers(ask(0, 1, TYPE)).await.unwrap();
    assert!(open.get_ref().offers[0].end_time.is_none());
    for (hours, count, instance_type) in [(-1, 1, TYPE), (1, 2000, TYPE), (1, 1, ""), (1, 1, "x")] {
        let refused = rpc.search_offers(ask(hours, count, instance_type)).await;
        assert_eq!(
            refused.unwrap_err().code(),
            tonic::Code::InvalidArgument,
            "{hours} {count} {instance_type}"
        );
    }
}
