use super::*;

const ED25519: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJCbgaR1lbBDWl9y1n5P7ByJYvUKiFXZbJ7BTIuFfMEk me@here";

fn asked() -> Asked {
    Asked {
        instance_type: "gpu_1x_h100_sxm5".to_owned(),
        ..Asked::default()
    }
}

fn refusal(asked: Asked) -> (String, String) {
    match check(asked) {
        Err(Error::InvalidField { field, message }) => (field, message),
        other => panic!("{other:?}"),
    }
}

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

#[test]
fn what_is_not_given_has_its_default() {
    let reservation = check(asked()).unwrap();
    assert_eq!(reservation.count, 1);
    assert_eq!((reservation.image, reservation.name), (None, None));
}

#[test]
fn counts_and_hours_out_of_range_are_refused_by_name() {
    for count in [0, -1, 1025, i32::MAX, i32::MIN] {
        let (field, message) = refusal(Asked {
            count: Some(count),
            ..asked()
        });
        assert_eq!(field, "count");
        assert!(message.contains("1 to 1024"), "{message}");
    }
    for hours in [0, -1, 8785, i32::MAX] {
        let (field, message) = refusal(Asked {
            hours: Some(hours),
            ..asked()
        });
        assert_eq!(field, "hours");
        assert!(message.contains("1 to 8784"), "{message}");
    }
    for (count, hours) in [(1, 1), (1024, 8784)] {
        assert!(
            check(Asked {
                count: Some(count),
                hours: Some(hours),
                ..asked()
            })
            .is_ok()
        );
    }
}

#[test]
fn a_window_begins_now_or_within_a_year() {
    let start = |seconds: i64| window(Some(now() + TimeDelta::seconds(seconds)), Some(2), now());
    assert_eq!(
        window(None, None, now()).unwrap(),
        Span {
            from: now(),
            to: None
        }
    );
    // A clock that is a little behind means now, and the window has its whole length.
    for seconds in [-60, -1, 0] {
        let span = start(seconds).unwrap();
        assert_eq!(span.from, now());
        assert_eq!(span.to, Some(now() + TimeDelta::hours(2)));
    }
    assert_eq!(start(3600).unwrap().from, now() + TimeDelta::hours(1));
    assert!(start(366 * 86_400).is_ok());
    for seconds in [-61, -1_000_000, 366 * 86_400 + 1, 1000 * 366 * 86_400] {
        let error = start(seconds).unwrap_err().to_string();
        assert!(error.starts_with("start_time: "), "{error}");
    }
    for extreme in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
        assert!(window(Some(extreme), Some(MAX_HOURS), now()).is_err());
    }
}

#[test]
fn keys_are_parsed_and_repetitions_dropped() {
    let reservation = check(Asked {
        ssh_public_keys: vec![ED25519.to_owned(), format!("  {ED25519}\n")],
        ..asked()
    })
    .unwrap();
    assert_eq!(reservation.ssh_keys.len(), 1);
    assert!(reservation.ssh_keys[0].fingerprint.starts_with("SHA256:"));
    assert_eq!(reservation.ssh_keys[0].line, ED25519);
}

#[test]
fn what_is_no_usable_key_is_refused_by_its_index() {
    let weak_rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDDmDmYqiPwRVfSKcVdrdNJH2D7dg8jX0hUCCYXYmCbjWwUOkhmnoyN3jfCBuCDhSo0GphtX/4r\
ZyqSk5JU8Ndkt5b8tlRhmUDaSBRJIQoMTDKyhq5Ahb0KSpjR6xPhpUgUH3s1lzf7eaVGhmkXn0ioYKGDPmXEm0RuXuZ4/Qz8yQ== weak";
    let cases = [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA", "private key"),
        ("ssh-ed25519", "OpenSSH's public key format"),
        ("hello", "OpenSSH's public key format"),
        ("", "OpenSSH's public key format"),
        (
            "command=\"x\" ssh-ed25519 AAAA",
            "OpenSSH's public key format",
        ),
        ("ssh-ed25519 AAAA\nssh-ed25519 AAAA", "one line"),
        ("ssh-dss AAAAB3NzaC1kc3MAAACBAAAA", "ssh-keygen"),
        (weak_rsa, "2048"),
    ];
    for (line, expected) in cases {
        let (field, message) = refusal(Asked {
            ssh_public_keys: vec![ED25519.to_owned(), line.to_owned()],
            ..asked()
        });
        assert_eq!(field, "ssh_public_keys[1]", "{line}");
        assert!(
            message.contains(expected) || message.contains(".pub"),
            "{line}: {message}"
        );
    }
    let (field, _) = refusal(Asked {
        ssh_public_keys: vec![ED25519.to_owned(); 33],
        ..asked()
    });
    assert_eq!(field, "ssh_public_keys");
}

#[test]
fn labels_have_their_alphabet_and_size() {
    let with = |key: &str, value: &str| Asked {
        labels: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        ..asked()
    };
    assert!(check(with("team/a.b_c-1", &"ä".repeat(255))).is_ok());
    for (key, value) in [
        ("", "v"),
        ("Team", "v"),
        ("a b", "v"),
        (&"k".repeat(64) as &str, "v"),
        ("k", &"v".repeat(256) as &str),
        ("k", "a\nb"),
    ] {
        let (field, _) = refusal(with(key, value));
        assert!(field.starts_with("labels["), "{field}");
    }
    let many = (0..65).map(|i| (format!("k{i}"), String::new())).collect();
    let (field, _) = refusal(Asked {
        labels: many,
        ..asked()
    });
    assert_eq!(field, "labels");
}

#[test]
fn image_references_are_read_as_docker_reads_them() {
    let digest = format!("a@sha256:{}", "0".repeat(64));
    for good in [
        "a",
        "ubuntu:24.04",
        "freehold/base:latest",
        "localhost:5000/a/b__c.d-e--f:v1",
        "ghcr.io/team/train",
        "nvcr.io/nvidia/pytorch:25.01-py3",
        &digest,
    ] {
        assert!(check_image(good).is_ok(), "{good}");
    }
    for bad in [
        "Upper",
        "a:",
        "a:.x",
        "a//b",
        "/a",
        "a/",
        "a@sha256:zz",
        "a b",
        "a;rm -rf",
        "a___b",
        "a..b",
        "https://x/y",
        "host:99999/a",
        &"a".repeat(300),
        "-v",
        "ä",
    ] {
        let error = check_image(bad).unwrap_err().to_string();
        assert!(error.starts_with("image: "), "{bad}");
    }
}

#[test]
fn names_are_checked_and_a_type_is_needed() {
    let (field, _) = refusal(Asked {
        name: "Bad Name".to_owned(),
        ..asked()
    });
    assert_eq!(field, "name");
    let (field, _) = refusal(Asked::default());
    assert_eq!(field, "instance_type");
}
