use std::net::TcpListener;

use crate::{
    freehold, home, run,
    server::{ControlPlane, Script, TOKEN, certificates},
    stderr,
};

#[tokio::test]
async fn without_a_server_or_a_token_the_option_and_the_variable_are_named() {
    let home = tempfile::tempdir().expect("a directory");
    for (words, option, variable) in [
        (&["lease", "list"][..], "--server", "FREEHOLD_SERVER"),
        (
            &["lease", "list", "--server", "https://localhost:1"],
            "--token",
            "FREEHOLD_TOKEN",
        ),
    ] {
        let output = freehold(home.path())
            .args(words)
            .output()
            .await
            .expect("runs");
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(option) && text.contains(variable), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_what_to_check() {
    let home = tempfile::tempdir().expect("a directory");
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .port();
    let url = format!("https://127.0.0.1:{port}");
    let output = freehold(home.path())
        .args(["lease", "list", "--token", "x", "--server", &url])
        .output()
        .await
        .expect("runs");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains(&url) && text.contains("cannot be reached") && text.contains("--server"),
        "{text}"
    );
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_and_the_ca_option_is_named() {
    let control_plane = ControlPlane::start(Script::default()).await;
    let home = home(&control_plane);
    let (other, _) = certificates();
    std::fs::write(home.path().join("ca.pem"), other).expect("written");
    let text = stderr(&run(&control_plane, home.path(), &["lease", "list"]).await);
    assert!(
        text.contains("not to be trusted") && text.contains("FREEHOLD_CA"),
        "{text}"
    );
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_and_says_so() {
    let control_plane = ControlPlane::start(Script::default()).await;
    let home = home(&control_plane);
    let url = control_plane.url.replace("localhost", "127.0.0.1");
    let text = stderr(
        &run(
            &control_plane,
            home.path(),
            &["lease", "list", "--server", &url],
        )
        .await,
    );
    assert!(
        text.contains("not for that name") && text.contains("--server"),
        "{text}"
    );
}

#[tokio::test]
async fn without_a_ca_the_systems_roots_decide() {
    let control_plane = ControlPlane::start(Script::default()).await;
    let home = home(&control_plane);
    let output = freehold(home.path())
        .args([
            "lease",
            "list",
            "--token",
            TOKEN,
            "--server",
            &control_plane.url,
        ])
        .output()
        .await
        .expect("runs");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("not to be trusted") && text.contains("--ca"),
        "{text}"
    );
}

#[tokio::test]
async fn a_ca_file_that_holds_no_certificate_is_named() {
    let control_plane = ControlPlane::start(Script::default()).await;
    let home = home(&control_plane);
    std::fs::write(home.path().join("ca.pem"), "hello").expect("written");
    let text = stderr(&run(&control_plane, home.path(), &["lease", "list"]).await);
    assert!(
        text.contains("ca.pem") && text.contains("no certificate"),
        "{text}"
    );
}

#[tokio::test]
async fn a_refused_token_names_its_option_and_how_to_get_another() {
    let control_plane = ControlPlane::start(Script::default()).await;
    let home = home(&control_plane);
    let output = run(
        &control_plane,
        home.path(),
        &["whoami", "--token", "fhk_old"],
    )
    .await;
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("FREEHOLD_TOKEN") && text.contains("freehold key create"),
        "{text}"
    );
    assert!(!text.contains("fhk_old"), "{text}");
}
