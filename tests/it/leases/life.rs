//! The main job, once through.

use freehold_proto::v1;
use freehold_tests::{
    client::TYPE,
    command::Cli,
    deployment::{Deployment, Tenant},
    invariants,
};
use serde_json::Value;

/// 8 GPUs for one started hour at 1.89 USD.
const ONE_HOUR_MICROS: i64 = 8 * 1_890_000;

#[tokio::test]
async fn a_lease_is_used_over_ssh_then_ended_scrubbed_and_billed() {
    let deployment = Deployment::start().await;
    let host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let cli = deployment.cli(&tenant.token);
    let words = [
        "lease",
        "create",
        "--type",
        TYPE,
        "--name",
        "train",
        "--label",
        "team=vision",
    ];
    let words: Vec<&str> = words.into_iter().chain(["--wait"]).collect();
    let lease = cli.json(&words).await;
    assert_eq!(lease["state"], "active");
    assert_eq!(
        lease["instances"][0]["gpu_uuids"],
        serde_json::json!(host.gpus.uuids())
    );

    let gpus = cli.run(&["ssh", "train", "--", "cat", "gpus"]).await;
    assert_eq!(gpus.code, Some(0), "{}", gpus.stderr);
    let seen: Vec<&str> = gpus.stdout.lines().collect();
    assert_eq!(seen, host.gpus.uuids(), "its GPUs, seen from inside");
    let failed = cli.run(&["ssh", "train", "--", "exit 7"]).await;
    assert_eq!(failed.code, Some(7), "{}", failed.stderr);
    use_openssh(&deployment, &cli, &lease).await;

    let ended = cli.json(&["lease", "end", "train", "--wait"]).await;
    assert_eq!(ended["state"], "ended");
    assert_scrubbed(&ended["instances"][0]["scrub"]);
    assert!(host.instances_on_disk().expect("read").is_empty());
    deployment
        .wait_for_host("gpu-1", v1::HostState::Available)
        .await;
    let refused = cli
        .run(&["ssh", lease["id"].as_str().expect("an id"), "--", "true"])
        .await;
    assert_ne!(refused.code, Some(0), "access is off");

    assert_billed(&cli, &tenant, &lease).await;
    invariants::assert_hold(&deployment.database().await).await;
}

/// What `ssh-cert` writes is enough for stock OpenSSH.
async fn use_openssh(deployment: &Deployment, cli: &Cli, lease: &Value) {
    let out = cli.home().join("keys");
    let out = out.to_str().expect("UTF-8");
    let written = cli.run(&["ssh-cert", "train", "--out", out]).await;
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    let id = lease["id"].as_str().expect("an id");
    let options = [
        "-F/dev/null".to_owned(),
        format!("-i{out}/id"),
        "-oIdentitiesOnly=yes".to_owned(),
        format!("-oCertificateFile={out}/id-cert.pub"),
        format!("-oUserKnownHostsFile={out}/known_hosts"),
        "-oStrictHostKeyChecking=yes".to_owned(),
        format!("-oPort={}", deployment.replicas[0].ssh_port()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let target = format!("{id}@127.0.0.1");
    let words = |more: &[&'static str]| -> Vec<String> {
        let all = options.iter().copied().chain([target.as_str()]);
        all.chain(more.iter().copied()).map(str::to_owned).collect()
    };
    let said = words(&["whoami; cat gpus | wc -l"]);
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    let said = cli.program("ssh", &said).await;
    assert_eq!(said.stdout.trim(), "lease\n8", "{}", said.stderr);

    let local = cli.home().join("note");
    std::fs::write(&local, "carried").expect("written");
    let (local, remote) = (local.display().to_string(), format!("{target}:note"));
    let copy: Vec<&str> = options
        .iter()
        .copied()
        .chain([local.as_str(), remote.as_str()])
        .collect();
    let copied = cli.program("scp", &copy).await;
    assert_eq!(copied.code, Some(0), "{}", copied.stderr);
    let note = cli.run(&["ssh", "train", "--", "cat note"]).await;
    assert_eq!(note.stdout, "carried", "{}", note.stderr);
}

/// Every step says what came of it, and what was skipped is not shown as passed.
fn assert_scrubbed(scrub: &Value) {
    assert_eq!(scrub["result"], "passed");
    let steps = scrub["steps"].as_array().expect("steps");
    assert!(!steps.is_empty());
    for step in steps {
        let expected = if step["name"] == "gpu_reset" {
            "skipped"
        } else {
            "passed"
        };
        assert_eq!(step["result"], expected, "{step}");
    }
}

/// One started hour, from the report down to what was seen of the instance.
async fn assert_billed(cli: &Cli, tenant: &Tenant, lease: &Value) {
    let report = cli
        .json(&["bill", "report", "--group-by", "label:team"])
        .await;
    let row = &report["rows"][0];
    assert_eq!(row["group_by"], "label:team");
    assert_eq!(row["group"], "vision");
    assert_eq!(row["amount_micros"], ONE_HOUR_MICROS);
    let id = lease["id"].as_str().expect("an id");
    let usage = tenant.client.usage(id).await;
    let amount: i64 = usage.iter().map(|record| record.amount_micros).sum();
    assert_eq!(amount, ONE_HOUR_MICROS);
    let request = v1::ExplainLeaseRequest {
        lease: id.to_owned(),
        ..Default::default()
    };
    let explained = tenant.client.leases().explain_lease(request).await;
    let explained = explained.expect("explained").into_inner();
    assert_eq!(explained.cost.expect("a cost").micros, ONE_HOUR_MICROS);
    for record in &usage {
        assert!(!record.ledger_transaction_id.is_empty());
        let was_usable = explained.availability.iter().any(|stretch| {
            stretch.instance_id == record.instance_id
                && stretch.state() == v1::AvailabilityState::Usable
                && !stretch.evidence.is_empty()
        });
        assert!(was_usable, "{record:?}");
    }
}
