use std::os::unix::fs::PermissionsExt as _;

use super::*;

pub(crate) fn identity() -> Identity {
    let issued = rcgen::generate_simple_self_signed(vec!["agent".to_owned()]).expect("issued");
    Identity {
        host_id: HostId::new(),
        hostname: "gpu-1".to_owned(),
        server: "https://localhost:8443".to_owned(),
        key_pem: issued.signing_key.serialize_pem(),
        certificate_pem: issued.cert.pem(),
        ca_pem: issued.cert.pem(),
    }
}

#[test]
fn a_stored_identity_is_its_owners_alone_and_loads_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let stored = identity();
    save(dir.path(), &stored).expect("stored");
    let mode = fs::metadata(dir.path().join(FILE)).expect("there");
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    let store = IdentityStore::open(dir.path()).expect("loads");
    assert_eq!(store.current().identity, stored);
    assert!(!format!("{store:?}").contains("PRIVATE KEY"));
}

#[test]
fn a_missing_identity_says_how_to_enrol() {
    let dir = tempfile::tempdir().expect("a directory");
    let error = IdentityStore::open(dir.path()).expect_err("nothing there");
    assert!(
        error.to_string().contains("freehold-agent enroll"),
        "{error}"
    );
}

#[test]
fn another_enrolment_is_taken_up_without_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    save(dir.path(), &identity()).expect("stored");
    let store = IdentityStore::open(dir.path()).expect("loads");
    let other = identity();
    save(dir.path(), &other).expect("stored");
    assert_eq!(store.current().identity, other);
    fs::write(dir.path().join(FILE), "{").expect("damaged");
    assert_eq!(store.current().identity, other, "a damaged one is not used");
}

#[test]
fn a_certificate_for_another_key_is_not_stored() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut wrong = identity();
    wrong.key_pem = identity().key_pem;
    assert!(matches!(
        save(dir.path(), &wrong),
        Err(IdentityError::Invalid { .. })
    ));
    assert!(!dir.path().join(FILE).exists());
}

#[test]
fn addresses_split_into_host_and_port() {
    let split = |text| tls::split_address(text).ok();
    assert_eq!(split("localhost:8444"), Some(("localhost", 8444)));
    assert_eq!(split("[::1]:8444"), Some(("::1", 8444)));
    for wrong in ["localhost", ":8444", "localhost:", "localhost:99999", ""] {
        assert_eq!(split(wrong), None, "{wrong}");
    }
}
