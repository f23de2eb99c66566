//! What an instance reaches, and what not, seen from inside.

use std::net::TcpListener;

use freehold_agent::model::{InstanceControl as _, InstanceSpec};

use crate::host::{Host, is_possible, output};

/// Those of the addresses, as `HOST/PORT`, that a TCP connection from inside gets to within 2 s.
fn reached(host: &Host, from: &InstanceSpec, addresses: &[String]) -> Vec<String> {
    let probe = "(timeout 2 bash -c \"exec 3<>/dev/tcp/$1\" 2>/dev/null && echo $1) &";
    let script = format!(
        "probe() {{ {probe} }}; for one in {}; do probe $one; done; wait",
        addresses.join(" ")
    );
    let said = host.inside(from.instance_id, &script);
    said.lines().map(str::to_owned).collect()
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
    let ssh_of = |host: &Host, spec: &InstanceSpec| {
        let target = host.instances().ssh_target(spec.instance_id);
        format!("{}/22", target.expect("runs").ip())
    };
    let gateway = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}";
    let container = host.container(spec.instance_id);
    let gateway = output(&["docker", "inspect", "-f", gateway, &container]);
    let addresses = output(&["hostname", "-I"]);
    let own = addresses
        .split_whitespace()
        .filter(|text| text.contains('.'));
    let mut closed: Vec<String> = own
        .chain([gateway.as_str()])
        .map(|address| format!("{address}/{port}"))
        .collect();
    assert!(closed.len() >= 2, "the host's own and the bridge's address");
    closed.push(ssh_of(&host, &same_host));
    closed.push(ssh_of(&other_host, &other));
    closed.push("169.254.169.254/80".to_owned());
    assert_eq!(reached(&host, &spec, &closed), Vec::<String>::new());
    let itself = [ssh_of(&host, &spec)];
    assert_eq!(reached(&host, &spec, &itself), itself);

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
