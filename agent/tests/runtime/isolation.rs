//! What an instance reaches, and what not, seen from inside.

use std::net::TcpListener;

use freehold_agent::model::InstanceControl as _;

use crate::host::{Host, is_possible, output};

/// Whether a TCP connection from inside comes about within 2 s.
fn reaches(
    host: &Host,
    from: &freehold_agent::model::InstanceSpec,
    address: &str,
    port: u16,
) -> bool {
    let command = format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}'");
    host.ssh(from.instance_id, &command).status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_reaches_neither_the_host_nor_metadata_nor_a_neighbour() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let mut other_host = Host::start().await;
    let (spec, same_host, other) = (host.spec(), host.spec(), other_host.spec());
    host.up(&spec).await;
    host.up(&same_host).await;
    other_host.up(&other).await;

    let listener = TcpListener::bind("0.0.0.0:0").expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let own = host.instances().ssh_target(spec.instance_id).expect("runs");
    let gateway = output(&[
        "docker",
        "inspect",
        "-f",
        "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}",
        &host.container(spec.instance_id),
    ]);
    let addresses = output(&["hostname", "-I"]);
    let host_addresses = addresses
        .split_whitespace()
        .filter(|text| text.contains('.'));
    let mut seen = 0;
    for address in host_addresses.chain([gateway.as_str()]) {
        assert!(
            !reaches(&host, &spec, address, port),
            "the host at {address}"
        );
        seen += 1;
    }
    assert!(seen >= 2, "the host's own and the bridge's address");
    let neighbours = [
        host.instances().ssh_target(same_host.instance_id),
        other_host.instances().ssh_target(other.instance_id),
    ];
    for neighbour in neighbours {
        let address = neighbour.expect("runs").ip().to_string();
        assert!(
            !reaches(&host, &spec, &address, 22),
            "the neighbour {address}"
        );
    }
    assert!(!reaches(&host, &spec, "169.254.169.254", 80), "metadata");
    assert!(reaches(&host, &spec, &own.ip().to_string(), 22), "itself");

    let inside = host.inside(
        spec.instance_id,
        "cat /proc/net/if_inet6 2>/dev/null | grep -v ' lo$' | wc -l",
    );
    assert_eq!(inside, "0", "IPv6 is off");
    assert_eq!(
        host.inside(
            spec.instance_id,
            "ls /var/run/docker.sock 2>/dev/null | wc -l"
        ),
        "0"
    );

    for (owner, spec) in [(&mut host, spec), (&mut other_host, other)] {
        owner.down_clean(&spec).await;
    }
    assert!(!host.rules().is_empty(), "an instance is left");
    host.down_clean(&same_host).await;
    assert_eq!(host.rules(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_others_flushed_are_laid_again() {
    if !is_possible() {
        return;
    }
    let mut host = Host::start().await;
    let spec = host.spec();
    host.up(&spec).await;
    let before = host.rules();
    assert!(before.len() > 20, "{before:#?}");
    host.stop_agent().await;
    host.remove_rules();
    assert_eq!(host.rules(), Vec::<String>::new());
    host.start_agent().await;
    assert_eq!(host.rules(), before);
    host.down_clean(&spec).await;
}
