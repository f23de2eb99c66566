//! The rules that keep instances away from the host, its neighbours and the operator's networks.
//!
//! ```text
//! DOCKER-USER -i fhHHHHH+ ──► FREEHOLD-HHHHH-OUT   what instances reach: established, the host's resolvers (DNS), the internet
//! DOCKER-USER -o fhHHHHH+ ──► FREEHOLD-HHHHH-TO    what reaches instances: established. The host itself does not pass here
//! INPUT       -i fhHHHHH+ ──► FREEHOLD-HHHHH-IN    what instances say to the host: established
//! ```
//!
//! HHHHH is the host id's end, and the interfaces of all of its instances begin with it: the rules do not depend on which instances there
//! are, so they hold before an instance starts. They are laid again with every instance, when the agent starts, and every half minute,
//! since the tools of other people flush tables. IPv6 is off in the networks and closed on the interfaces.

use std::{fmt::Write as _, fs, net::IpAddr};

use freehold_proto::id::HostId;
use tokio::sync::Mutex;

use crate::{
    command::{self, CommandError},
    policy::Network,
    runtime::bridge_prefix,
};

/// Private, shared, link-local with the metadata service, test, benchmark, multicast and reserved networks.
const ALWAYS_CLOSED: [&str; 14] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// This host's rules. One change at a time.
#[derive(Debug)]
pub(crate) struct Firewall {
    interfaces: String,
    chain: String,
    denied: Vec<Network>,
    changing: Mutex<()>,
}

impl Firewall {
    pub(crate) fn new(host: HostId, denied: Vec<Network>) -> Self {
        let prefix = bridge_prefix(host);
        Self {
            chain: format!("FREEHOLD-{}", prefix.trim_start_matches("fh")),
            interfaces: format!("{prefix}+"),
            denied,
            changing: Mutex::default(),
        }
    }

    /// Lays the rules. One transaction: there is no moment without them.
    pub(crate) async fn ensure(&self) -> Result<(), CommandError> {
        let _changing = self.changing.lock().await;
        let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let rules = self.rules(&resolvers_in(&resolvers));
        command::run("iptables-restore", &["-w", "10", "--noflush"], &rules).await?;
        for jump in self.jumps() {
            ensure_jump("iptables", &jump).await?;
        }
        if has_ipv6() {
            for chain in ["INPUT", "FORWARD"] {
                let rule = [chain, "-i", &self.interfaces, "-j", "DROP"];
                ensure_jump("ip6tables", &rule.map(str::to_owned)).await?;
            }
        }
        Ok(())
    }

    /// Takes the rules away: no instance is left that they would hold.
    pub(crate) async fn remove(&self) -> Result<(), CommandError> {
        let _changing = self.changing.lock().await;
        for jump in self.jumps() {
            remove_jump("iptables", &jump).await?;
        }
        for chain in self.chains() {
            if command::run("iptables", &["-w", "10", "-n", "-L", &chain], "")
                .await
                .is_ok()
            {
                command::run("iptables", &["-w", "10", "-F", &chain], "").await?;
                command::run("iptables", &["-w", "10", "-X", &chain], "").await?;
            }
        }
        if has_ipv6() {
            for chain in ["INPUT", "FORWARD"] {
                let rule = [chain, "-i", &self.interfaces, "-j", "DROP"];
                remove_jump("ip6tables", &rule.map(str::to_owned)).await?;
            }
        }
        Ok(())
    }

    fn chains(&self) -> [String; 3] {
        ["OUT", "TO", "IN"].map(|way| format!("{}-{way}", self.chain))
    }

    fn jumps(&self) -> Vec<[String; 5]> {
        let [out, to, input] = self.chains();
        [
            ["DOCKER-USER", "-i", &self.interfaces, "-j", &out],
            ["DOCKER-USER", "-o", &self.interfaces, "-j", &to],
            ["INPUT", "-i", &self.interfaces, "-j", &input],
        ]
        .map(|jump| jump.map(str::to_owned))
        .to_vec()
    }

    fn rules(&self, resolvers: &[IpAddr]) -> String {
        let [out, to, input] = self.chains();
        let mut text = format!("*filter\n:{out} - [0:0]\n:{to} - [0:0]\n:{input} - [0:0]\n");
        for chain in [&out, &to, &input] {
            let _ = writeln!(
                text,
                "-A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"
            );
        }
        for resolver in resolvers.iter().filter(|address| address.is_ipv4()) {
            for (chain, protocol) in [
                (&out, "udp"),
                (&out, "tcp"),
                (&input, "udp"),
                (&input, "tcp"),
            ] {
                let _ = writeln!(
                    text,
                    "-A {chain} -d {resolver}/32 -p {protocol} --dport 53 -j RETURN"
                );
            }
        }
        let closed = ALWAYS_CLOSED.iter().map(|&network| network.to_owned());
        let denied = self.denied.iter().filter(|network| network.is_ipv4());
        for network in closed.chain(denied.map(ToString::to_string)) {
            let _ = writeln!(text, "-A {out} -d {network} -j DROP");
        }
        // Bridges may have public addresses too.
        for bridge in ["fh+", "docker+", "br-+"] {
            let _ = writeln!(text, "-A {out} -o {bridge} -j DROP");
        }
        let _ = write!(text, "-A {to} -j DROP\n-A {input} -j DROP\nCOMMIT\n");
        text
    }
}

/// Puts a rule first in its chain, unless it is in it.
async fn ensure_jump(tool: &str, rule: &[String; 5]) -> Result<(), CommandError> {
    if command::run(tool, &with_action("-C", rule), "")
        .await
        .is_ok()
    {
        return Ok(());
    }
    command::run(tool, &with_action("-I", rule), "").await?;
    Ok(())
}

async fn remove_jump(tool: &str, rule: &[String; 5]) -> Result<(), CommandError> {
    while command::run(tool, &with_action("-C", rule), "")
        .await
        .is_ok()
    {
        command::run(tool, &with_action("-D", rule), "").await?;
    }
    Ok(())
}

fn with_action<'a>(action: &'a str, rule: &'a [String; 5]) -> Vec<&'a str> {
    let mut words = vec!["-w", "10", action];
    words.extend(rule.iter().map(String::as_str));
    words
}

fn has_ipv6() -> bool {
    fs::metadata("/proc/net/if_inet6").is_ok()
}

/// The name servers that the engine hands on to instances. Loopback ones it asks itself, on the host.
fn resolvers_in(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
    };
    let addresses = text.lines().filter_map(address);
    addresses
        .filter(|address: &IpAddr| !address.is_loopback())
        .collect()
}

/// The packet size of the interface of the default route: a larger one inside would be cut or lost on the way.
pub(super) fn uplink_mtu() -> u32 {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let is_default = |line: &&str| line.split_whitespace().nth(1) == Some("00000000");
    let interface = routes
        .lines()
        .find(is_default)
        .and_then(|line| line.split_whitespace().next());
    let mtu = interface.and_then(|name| {
        let text = fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?;
        text.trim().parse().ok()
    });
    mtu.unwrap_or(1500).clamp(576, 1500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_close_everything_private_and_what_the_policy_names() {
        let denied = vec!["198.51.0.0/16".parse().expect("a network")];
        let firewall = Firewall::new(HostId::new(), denied);
        let resolver = "10.0.0.53".parse().expect("an address");
        let rules = firewall.rules(&[resolver]);
        let [out, to, input] = firewall.chains();
        for network in ["10.0.0.0/8", "169.254.0.0/16", "198.51.0.0/16"] {
            assert!(rules.contains(&format!("-A {out} -d {network} -j DROP")));
        }
        let dns = rules
            .find("-d 10.0.0.53/32 -p udp --dport 53 -j RETURN")
            .expect("DNS");
        assert!(dns < rules.find("-d 10.0.0.0/8").expect("closed"));
        assert!(rules.contains(&format!("-A {to} -j DROP")));
        assert!(rules.contains(&format!("-A {input} -j DROP")));
        assert!(rules.ends_with("COMMIT\n"));
        assert!(firewall.chains().iter().all(|name| name.len() < 29));
    }

    #[test]
    fn resolvers_on_loopback_need_no_rule() {
        let text = "# hello\nnameserver 127.0.0.53\nnameserver 10.1.2.3\nsearch x\nnameserver fe80::1%eth0\n";
        let expected: IpAddr = "10.1.2.3".parse().expect("an address");
        assert_eq!(resolvers_in(text), [expected]);
    }
}
