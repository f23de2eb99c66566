use freehold_proto::v1::LeaseState;

use crate::{
    home, json, lease, run,
    server::{ControlPlane, Script},
    stdout,
};

async fn five() -> ControlPlane {
    ControlPlane::start(Script {
        leases: vec![lease(LeaseState::Active); 5],
        ..Default::default()
    })
    .await
}

#[tokio::test]
async fn a_list_fetches_every_page() {
    let control_plane = five().await;
    let home = home(&control_plane);
    let output = run(
        &control_plane,
        home.path(),
        &["lease", "list", "--output", "json"],
    )
    .await;
    let list = json(&output);
    assert_eq!(list["leases"].as_array().map(Vec::len), Some(5));
    assert_eq!(list["next_page_token"], "");
    assert_eq!(control_plane.script().lists.len(), 3);
}

#[tokio::test]
async fn a_page_that_was_asked_for_comes_alone_with_the_next_pages_token() {
    let control_plane = five().await;
    let home = home(&control_plane);
    let words = [
        "lease",
        "list",
        "--page-size",
        "2",
        "--page-token",
        "2",
        "--output",
        "json",
    ];
    let list = json(&run(&control_plane, home.path(), &words).await);
    assert_eq!(list["leases"].as_array().map(Vec::len), Some(2));
    assert_eq!(list["next_page_token"], "4");
    let seen = control_plane.script().lists.clone();
    assert_eq!((seen.len(), seen[0].page_size), (1, 2));
}

#[tokio::test]
async fn global_options_stand_before_or_after_the_command() {
    let control_plane = five().await;
    let home = home(&control_plane);
    let before = [
        "--output",
        "csv",
        "--org",
        "lab",
        "--project",
        "p",
        "lease",
        "list",
    ];
    let after = [
        "lease",
        "list",
        "--project",
        "p",
        "--org",
        "lab",
        "--output",
        "csv",
    ];
    let between = [
        "--org",
        "lab",
        "lease",
        "--output",
        "csv",
        "list",
        "--project",
        "p",
    ];
    let mut answers = Vec::new();
    for words in [&before, &after, &between] {
        answers.push(stdout(&run(&control_plane, home.path(), words).await));
    }
    assert!(answers[0].starts_with("id,name,state,"), "{}", answers[0]);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let seen = control_plane.script().lists.clone();
    assert!(
        seen.iter()
            .all(|list| list.organization == "lab" && list.project == "p")
    );
}
