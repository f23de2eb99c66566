use super::{Entry, service::list_entries};
use crate::{error::Error, page::Page, testing};

async fn write(app: &crate::app::App, caller: &crate::gate::Caller, action: &'static str) {
    let mut tx = app.pool.begin().await.unwrap();
    Entry::new(
        Some(caller.principal),
        Some(caller.organization),
        action,
        "x",
    )
    .with("name", "n")
    .write(&mut tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn tenants_read_their_own_entries_and_the_operator_all() {
    let app = testing::app().await;
    let (vision, speech) = (
        testing::tenant(&app, "vision").await,
        testing::tenant(&app, "speech").await,
    );
    write(&app, &vision, "lease.create").await;
    write(&app, &speech, "lease.create").await;
    write(&app, &vision, "lease.end").await;
    let page = Page::parse(0, "").unwrap();
    let (own, next) = list_entries(&app, &vision, "", "", page).await.unwrap();
    let actions: Vec<&str> = own.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(
        (actions, next.as_str()),
        (vec!["lease.end", "lease.create"], "")
    );
    let foreign = list_entries(&app, &vision, "speech", "", page).await;
    let missing = list_entries(&app, &vision, "nobody", "", page).await;
    assert!(matches!(foreign, Err(Error::NotFound { .. })));
    assert!(matches!(missing, Err(Error::NotFound { .. })));
    let operator = testing::operator(&app).await;
    let (all, _) = list_entries(&app, &operator, "", "lease.create", page)
        .await
        .unwrap();
    assert_eq!(all.len(), 2);
    let (speechs, _) = list_entries(&app, &operator, "speech", "", page)
        .await
        .unwrap();
    assert_eq!(speechs.len(), 1);
}

#[tokio::test]
async fn pages_go_from_the_newest_to_the_oldest_without_gaps() {
    let app = testing::app().await;
    let vision = testing::tenant(&app, "vision").await;
    for _ in 0..5 {
        write(&app, &vision, "key.create").await;
    }
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = Page::parse(2, &token).unwrap();
        let (rows, next) = list_entries(&app, &vision, "", "", page).await.unwrap();
        seen.extend(rows.iter().map(|row| row.id));
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted_by(|a, b| a > b));
}

#[tokio::test]
async fn a_key_that_is_bound_to_a_project_reads_no_entries_and_nobody_changes_one() {
    let app = testing::app().await;
    let mut vision = testing::tenant(&app, "vision").await;
    write(&app, &vision, "key.create").await;
    vision.project = Some(freehold_proto::id::ProjectId::new());
    let refused = list_entries(&app, &vision, "", "", Page::parse(0, "").unwrap()).await;
    assert!(matches!(refused, Err(Error::PermissionDenied(_))));
    for change in [
        "update audit_entry set action = 'x'",
        "delete from audit_entry",
        "truncate audit_entry",
    ] {
        let error = sqlx::query(change).execute(&app.pool).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
}
