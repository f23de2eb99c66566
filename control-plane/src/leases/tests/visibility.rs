use futures_util::StreamExt as _;

use super::*;
use crate::leases::offers::{self, Search};

#[tokio::test]
async fn another_tenants_lease_is_answered_like_one_that_never_was() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let owner = testing::tenant(&app, "vision").await;
    let stranger = testing::tenant(&app, "speech").await;
    let record = create(&app, &owner, asked()).await.unwrap();
    let foreign = id_of(&record);
    let random = LeaseId::new().to_string();
    for name in [&foreign, &record.lease.name, &random] {
        let answers = [
            get(&app, &stranger, name).await.map(|_| ()),
            service::end_lease(&app, &stranger, named(name))
                .await
                .map(|_| ()),
            service::explain_lease(&app, &stranger, named(name))
                .await
                .map(|_| ()),
            service::watch_lease(&app, &stranger, named(name))
                .await
                .map(|_| ()),
        ];
        for answer in answers {
            assert_eq!(
                answer.unwrap_err().to_string(),
                format!("no lease `{name}` was found")
            );
        }
    }
    let filter = LeaseFilter::default();
    let page = Page::parse(0, "").unwrap();
    let (seen, _) = service::list_leases(&app, &stranger, ("", ""), &filter, page)
        .await
        .unwrap();
    assert!(seen.is_empty());
    assert!(
        service::list_leases(&app, &stranger, ("vision", ""), &filter, page)
            .await
            .is_err()
    );
    let operator = testing::operator(&app).await;
    let (seen, _) = service::list_leases(&app, &operator, ("", ""), &filter, page)
        .await
        .unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        get(&app, &owner, &foreign).await.unwrap().lease.state,
        "provisioning"
    );
}

#[tokio::test]
async fn leases_are_listed_newest_first_page_by_page_and_by_state() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let mut made = Vec::new();
    for _ in 0..5 {
        testing::host(&app, "sector-1").await;
        made.push(create(&app, &caller, asked()).await.unwrap().lease.id);
    }
    made.reverse();
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let page = Page::parse(2, &token).unwrap();
        let (leases, next) =
            service::list_leases(&app, &caller, ("", ""), &LeaseFilter::default(), page)
                .await
                .unwrap();
        seen.extend(leases.iter().map(|record| record.lease.id));
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!(seen, made);
    let id = LeaseId::from(made[0]).to_string();
    service::end_lease(&app, &caller, named(&id)).await.unwrap();
    let ended = LeaseFilter {
        states: vec!["ended".to_owned()],
    };
    let page = Page::parse(0, "").unwrap();
    let (leases, _) = service::list_leases(&app, &caller, ("", ""), &ended, page)
        .await
        .unwrap();
    assert_eq!(leases.len(), 1);
}

#[tokio::test]
async fn an_operators_name_that_several_tenants_use_is_ambiguous() {
    let app = testing::app().await;
    for tenant in ["vision", "speech"] {
        testing::host(&app, "sector-1").await;
        let caller = testing::tenant(&app, tenant).await;
        let train = Asked {
            name: "train".to_owned(),
            ..asked()
        };
        create(&app, &caller, train).await.unwrap();
    }
    let operator = testing::operator(&app).await;
    let refused = get(&app, &operator, "train").await.unwrap_err();
    assert!(
        matches!(&refused, Error::InvalidField { field, .. } if field == "lease"),
        "{refused}"
    );
    let named = Named {
        lease: "train",
        organization: "speech",
        project: "",
    };
    let found = service::get_lease(&app, &operator, named).await.unwrap();
    assert_eq!(found.lease.organization, "speech");
}

#[tokio::test]
async fn a_watcher_sees_the_lease_now_each_change_and_the_settled_end() {
    let app = testing::app().await;
    let listening = tokio::spawn(
        app.bus
            .clone()
            .listen(app.pool.clone(), app.shutdown.clone()),
    );
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let record = create(&app, &caller, asked()).await.unwrap();
    let id = id_of(&record);
    let mut states = service::watch_lease(&app, &caller, named(&id))
        .await
        .unwrap();
    assert_eq!(
        states.next().await.unwrap().unwrap().lease.state,
        "provisioning"
    );
    service::end_lease(&app, &caller, named(&id)).await.unwrap();
    assert_eq!(states.next().await.unwrap().unwrap().lease.state, "ended");
    sqlx::query("update lease set settled_at = now()")
        .execute(&app.pool)
        .await
        .unwrap();
    assert!(
        states
            .next()
            .await
            .unwrap()
            .unwrap()
            .lease
            .settled_at
            .is_some()
    );
    assert!(states.next().await.is_none());
    app.shutdown.cancel();
    listening.await.unwrap();
}

#[tokio::test]
async fn watching_ends_when_the_replica_stops_and_when_the_credential_expires() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let mut caller = testing::tenant(&app, "vision").await;
    let id = id_of(&create(&app, &caller, asked()).await.unwrap());
    caller.expires_at = Utc::now() - TimeDelta::seconds(1);
    let mut states = service::watch_lease(&app, &caller, named(&id))
        .await
        .unwrap();
    states.next().await.unwrap().unwrap();
    let last = states.next().await.unwrap();
    assert!(matches!(last, Err(Error::Unauthenticated(_))), "{last:?}");
    assert!(states.next().await.is_none());
    caller.expires_at = Utc::now() + TimeDelta::days(1);
    let mut states = service::watch_lease(&app, &caller, named(&id))
        .await
        .unwrap();
    states.next().await.unwrap().unwrap();
    app.shutdown.cancel();
    let last = states.next().await.unwrap();
    assert!(matches!(last, Err(Error::Unavailable(_))), "{last:?}");
    assert!(states.next().await.is_none());
}

#[tokio::test]
async fn an_explanation_has_the_events_and_says_what_is_billed() {
    let app = testing::app().await;
    testing::host(&app, "sector-1").await;
    let caller = testing::tenant(&app, "vision").await;
    let id = id_of(&create(&app, &caller, asked()).await.unwrap());
    service::end_lease(&app, &caller, named(&id)).await.unwrap();
    let explanation = service::explain_lease(&app, &caller, named(&id))
        .await
        .unwrap();
    let kinds: Vec<&str> = explanation
        .history
        .events
        .iter()
        .map(|e| e.kind.as_str())
        .collect();
    assert_eq!(kinds, ["booked", "end_requested", "ended"]);
    assert!(
        explanation
            .summary
            .contains("the lease was ended by its organization")
    );
    assert!(
        explanation
            .summary
            .ends_with("Nothing has been billed so far.")
    );
}

#[tokio::test]
async fn offers_are_what_fits_or_else_the_earliest_that_would_and_can_then_be_booked() {
    let app = testing::app().await;
    let caller = testing::tenant(&app, "vision").await;
    let search = Search {
        instance_type: TYPE.to_owned(),
        hours: Some(3),
        ..Search::default()
    };
    assert!(
        offers::search(&app, &caller, &search)
            .await
            .unwrap()
            .is_empty()
    );
    testing::host(&app, "sector-1").await;
    let found = offers::search(&app, &caller, &search).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].estimated_cost_micros, Some(1_890_000 * 8 * 3));
    assert_eq!(found[0].available_hosts, 1);
    let hour = Asked {
        hours: Some(1),
        ..asked()
    };
    let record = create(&app, &caller, hour).await.unwrap();
    let found = offers::search(&app, &caller, &search).await.unwrap();
    let end = record.lease.end_at.unwrap();
    assert!(found[0].start >= end + TimeDelta::minutes(15));
    assert!(found[0].start < end + TimeDelta::minutes(16));
    let booked = Asked {
        start: Some(found[0].start),
        hours: Some(3),
        ..asked()
    };
    create(&app, &caller, booked).await.unwrap();
}
