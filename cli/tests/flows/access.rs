use std::{os::unix::fs::PermissionsExt as _, path::Path};

use freehold_proto::v1::LeaseState;

use crate::{
    LEASE, freehold, home, json, lease, run,
    server::{ControlPlane, Script, TOKEN},
    stderr, stdout,
};

async fn active() -> ControlPlane {
    ControlPlane::start(Script {
        lease: lease(LeaseState::Active),
        ..Default::default()
    })
    .await
}

/// An `ssh` that prints its words and exits with 7.
fn write_ssh(directory: &Path) {
    let file = directory.join("ssh");
    std::fs::write(
        &file,
        "#!/bin/sh\nfor word; do echo \"$word\"; done\nexit 7\n",
    )
    .expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("set");
}

async fn ssh(
    control_plane: &ControlPlane,
    home: &Path,
    path: &Path,
    words: &[&str],
) -> std::process::Output {
    freehold(home)
        .env("PATH", path)
        .env("FREEHOLD_SERVER", &control_plane.url)
        .env("FREEHOLD_TOKEN", TOKEN)
        .env("FREEHOLD_CA", home.join("ca.pem"))
        .arg("ssh")
        .args(words)
        .output()
        .await
        .expect("runs")
}

#[tokio::test]
async fn ssh_becomes_the_systems_ssh_and_returns_its_exit_code() {
    let control_plane = active().await;
    let home = home(&control_plane);
    write_ssh(home.path());
    let output = ssh(
        &control_plane,
        home.path(),
        home.path(),
        &["vision", "--", "echo", "-n", "a b"],
    )
    .await;
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    let words = stdout(&output);
    let words: Vec<_> = words.lines().collect();
    assert!(
        words.windows(2).any(|pair| pair == ["-p", "2222"]),
        "{words:?}"
    );
    let directory = home.path().join(".cache/freehold/ssh").join(LEASE);
    assert!(
        words
            .contains(&format!("CertificateFile=\"{}/id-cert.pub\"", directory.display()).as_str()),
        "{words:?}"
    );
    let user = format!("{LEASE}@gateway.example.com");
    assert_eq!(words[words.len() - 3..], ["--", &user, "echo -n a b"]);
}

#[tokio::test]
async fn a_certificate_that_is_still_good_is_used_again() {
    let control_plane = active().await;
    let home = home(&control_plane);
    write_ssh(home.path());
    for target in ["vision", LEASE, "vision.0"] {
        let output = ssh(&control_plane, home.path(), home.path(), &[target]).await;
        assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    }
    assert_eq!(control_plane.script().signs.len(), 1);
}

#[tokio::test]
async fn a_lease_that_is_over_is_refused_in_words_even_with_a_certificate_at_hand() {
    let control_plane = active().await;
    let home = home(&control_plane);
    write_ssh(home.path());
    ssh(&control_plane, home.path(), home.path(), &[LEASE]).await;
    control_plane.script().lease = lease(LeaseState::Ended);
    let output = ssh(&control_plane, home.path(), home.path(), &[LEASE]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("has ended"), "{}", stderr(&output));
}

#[tokio::test]
async fn without_an_ssh_client_the_error_says_what_to_install() {
    let control_plane = active().await;
    let home = home(&control_plane);
    let empty = tempfile::tempdir().expect("a directory");
    let output = ssh(&control_plane, home.path(), empty.path(), &["vision"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("openssh-client"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn ssh_cert_writes_a_key_a_certificate_and_known_hosts_for_their_owner_alone() {
    let control_plane = active().await;
    let home = home(&control_plane);
    let out = home.path().join("keys");
    let words = [
        "ssh-cert",
        "vision",
        "--out",
        &out.display().to_string(),
        "--output",
        "json",
    ];
    let answer = json(&run(&control_plane, home.path(), &words).await);
    assert_eq!(answer["lease_id"], LEASE);
    assert_eq!(
        answer["identity_file"],
        out.join("id").display().to_string()
    );
    for file in ["id", "id-cert.pub", "known_hosts"] {
        let mode = std::fs::metadata(out.join(file))
            .expect(file)
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{file}");
    }
    let sent = control_plane.script().signs[0].public_key.clone();
    assert!(sent.starts_with("ssh-ed25519 "), "{sent}");
}

#[tokio::test]
async fn ssh_config_lists_the_active_leases() {
    let control_plane = active().await;
    control_plane.script().leases = vec![lease(LeaseState::Active)];
    let home = home(&control_plane);
    let text = stdout(&run(&control_plane, home.path(), &["ssh-config"]).await);
    assert!(
        text.contains(&format!("Host vision {LEASE}\n")) && text.contains("Host vision.0"),
        "{text}"
    );
    assert!(!text.contains(TOKEN), "{text}");
    let answer = json(
        &run(
            &control_plane,
            home.path(),
            &["ssh-config", "--output", "json"],
        )
        .await,
    );
    assert_eq!(answer["hosts"][0]["host_name"], "gateway.example.com");
}

#[tokio::test]
async fn a_new_key_shows_its_secret_once_in_the_answer() {
    let control_plane = active().await;
    let home = home(&control_plane);
    let words = ["key", "create", "--org", "lab", "--output", "json"];
    assert_eq!(
        json(&run(&control_plane, home.path(), &words).await)["secret"],
        "fhk_new"
    );
}
