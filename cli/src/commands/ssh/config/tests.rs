use std::process::Command;

use super::*;

const LEASE: &str = "lease_0193f0f0f0f07000800000000000000a";

fn refresh() -> Refresh {
    Refresh {
        program: "/opt/a b/freehold".to_owned(),
        options: vec![
            ("--server", "https://gpu.example.com:8443".to_owned()),
            ("--ca", "/etc/50%/it's \"ca\".pem".to_owned()),
        ],
    }
}

fn text() -> String {
    let lease = v1::Lease {
        id: LEASE.to_owned(),
        name: "vision".to_owned(),
        count: 2,
        ..Default::default()
    };
    let credentials = serde_json::from_value(json!({
        "lease_id": LEASE,
        "host": "ssh.example.com",
        "port": 2222,
        "valid_before": "2026-11-23T20:00:00Z",
        "identity": "i",
    }))
    .map(|found: Credentials| found.in_directory("/home/a b/.cache/50%/x"))
    .expect("credentials");
    render(&blocks(&lease, &credentials), &refresh())
}

#[test]
fn the_configuration_names_the_lease_and_each_instance() {
    insta::assert_snapshot!(text());
}

/// Stock OpenSSH is the judge of its own configuration.
#[test]
fn openssh_reads_the_configuration_as_it_was_meant() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config");
    // The renewal would run a program that is not there; what is tested is that its line parses and the host blocks hold without it.
    std::fs::write(&file, text()).expect("written");
    let settings = |host: &str| {
        let output = Command::new("ssh")
            .arg("-G")
            .arg("-F")
            .arg(&file)
            .arg(host)
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) => {
                eprintln!("skipped: no ssh here: {error}");
                return None;
            }
        };
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(whole) = settings("vision") else {
        return;
    };
    for line in [
        "hostname ssh.example.com".to_owned(),
        "port 2222".to_owned(),
        format!("user {LEASE}"),
        "identityfile /home/a b/.cache/50%/x/id".to_owned(),
        "identitiesonly yes".to_owned(),
    ] {
        let found = whole.replace("%%", "%");
        assert!(
            found.lines().any(|setting| setting == line),
            "{line} is not in\n{whole}"
        );
    }
    let second = settings("vision.1").expect("ssh was there");
    assert!(second.contains(&format!("user {LEASE}.1\n")), "{second}");
    let stranger = settings("elsewhere").expect("ssh was there");
    assert!(!stranger.contains(LEASE), "{stranger}");
}

/// What ssh hands to the shell is what the shell must read as the program's words.
#[test]
fn the_renewal_command_survives_ssh_and_the_shell() {
    let directory = tempfile::tempdir().expect("a directory");
    let marker = directory.path().join("seen it's \"100%\"");
    let refresh = Refresh {
        program: "printf".to_owned(),
        options: vec![("--", "x".to_owned())],
    };
    let line = refresh.line(LEASE).replace(
        "'printf' ssh-cert",
        &format!("touch {} #", word(&marker.display().to_string())),
    );
    let file = directory.path().join("config");
    std::fs::write(
        &file,
        format!("Match originalhost vision exec \"{line}\"\n    Port 7\n"),
    )
    .expect("written");
    let output = Command::new("ssh")
        .arg("-G")
        .arg("-F")
        .arg(&file)
        .arg("vision")
        .output();
    match output {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(
                marker.exists(),
                "the command did not run as written: {line}"
            );
        }
        Err(error) => eprintln!("skipped: no ssh here: {error}"),
    }
}
