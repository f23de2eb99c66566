use freehold_tests::deployment::{Deployment, Options};

#[tokio::test]
async fn a_deployment_serves_after_kill_9_and_knows_what_it_knew() {
    let mut deployment = Deployment::start().await;
    let made = deployment
        .operator()
        .organizations()
        .create_organization(freehold_proto::v1::CreateOrganizationRequest {
            name: "vision".to_owned(),
            ..Default::default()
        })
        .await
        .expect("an organization")
        .into_inner();
    deployment.replicas[0].kill().await;
    deployment.restart(0).await;
    let listed = deployment
        .cli(deployment.operator_token())
        .json(&["org", "list"])
        .await;
    let known = listed["organizations"].as_array().expect("a list");
    assert!(known.iter().any(|one| one["id"] == made.id.as_str()));
}

#[tokio::test]
async fn two_replicas_serve_one_database() {
    let deployment = Options::default().replicas(2).start().await;
    let database = deployment.database().await;
    let replicas: i64 = sqlx::query_scalar("select count(*) from replica")
        .fetch_one(&database)
        .await
        .expect("counted");
    assert_eq!(replicas, 2);
}
