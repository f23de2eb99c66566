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

    /// Lays the rules that are not there. One transaction for each protocol: there is no moment without them.
    pub(crate) async fn ensure(&self) -> Result<(), CommandError> {
        let _changing = self.changing.lock().await;
        let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let rules = self.rules(&resolvers_in(&resolvers));
        lay("iptables", &self.chains(), &rules, &self.jumps()).await?;
        if has_ipv6() {
            lay("ip6tables", &[], &[], &self.ipv6_jumps()).await?;
        }
        Ok(())
    }

    /// Takes the rules away: no instance is left that they would hold.
    pub(crate) async fn remove(&self) -> Result<(), CommandError> {
        let _changing = self.changing.lock().await;
        clear("iptables", &self.chains(), &self.jumps()).await?;
        if has_ipv6() {
            clear("ip6tables", &[], &self.ipv6_jumps()).await?;
        }
        Ok(())
    }

    fn chains(&self) -> [String; 3] {
        ["OUT", "TO", "IN"].map(|way| format!("{}-{way}", self.chain))
    }

    fn jumps(&self) -> Vec<String> {
        let [out, to, input] = self.chains();
        let interfaces = &self.interfaces;
        vec![
            format!("DOCKER-USER -i {interfaces} -j {out}"),
            format!("DOCKER-USER -o {interfaces} -j {to}"),
            format!("INPUT -i {interfaces} -j {input}"),
        ]
    }

    fn ipv6_jumps(&self) -> Vec<String> {
        let interfaces = &self.interfaces;
        ["INPUT", "FORWARD"]
            .map(|chain| format!("{chain} -i {interfaces} -j DROP"))
            .to_vec()
    }

    /// What is in the chains, in the form in which the tool lists it.
    fn rules(&self, resolvers: &[IpAddr]) -> Vec<String> {
        let [out, to, input] = self.chains();
        let established = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN";
        let mut rules = vec![
            format!("{out} {established}"),
            format!("{to} {established}"),
            format!("{input} {established}"),
        ];
        for resolver in resolvers.iter().filter(|address| address.is_ipv4()) {
            for chain in [&out, &input] {
                rules.extend(["udp", "tcp"].map(|protocol| {
                    format!(
                        "{chain} -d {resolver}/32 -p {protocol} -m {protocol} --dport 53 -j RETURN"
                    )
                }));
            }
        }
        let closed = ALWAYS_CLOSED.iter().map(|&network| network.to_owned());
        let denied = self.denied.iter().filter(|network| network.is_ipv4());
        let networks = closed.chain(denied.map(ToString::to_string));
        rules.extend(networks.map(|network| format!("{out} -d {network} -j DROP")));
        // Bridges may have public addresses too.
        rules.extend(["fh+", "docker+", "br-+"].map(|bridge| format!("{out} -o {bridge} -j DROP")));
        rules.extend([format!("{to} -j DROP"), format!("{input} -j DROP")]);
        rules
    }
}

/// Makes a table have these chains with these rules in them, and these jumps first in their chains.
async fn lay(
    tool: &str,
    chains: &[String],
    rules: &[String],
    jumps: &[String],
) -> Result<(), CommandError> {
    let present = list(tool).await?;
    let missing = jumps.iter().filter(|jump| !present.contains(jump));
    let missing: Vec<&String> = missing.collect();
    let is_ours = |rule: &&String| chains.iter().any(|chain| chain_of(rule) == chain);
    let mut wanted: Vec<&String> = rules.iter().collect();
    let mut laid: Vec<&String> = present.iter().filter(is_ours).collect();
    // The tool lists chains by their names.
    wanted.sort_by_key(|rule| chain_of(rule));
    laid.sort_by_key(|rule| chain_of(rule));
    if missing.is_empty() && wanted == laid {
        return Ok(());
    }
    let mut text = "*filter\n".to_owned();
    for chain in chains {
        let _ = writeln!(text, ":{chain} - [0:0]");
    }
    for rule in rules {
        let _ = writeln!(text, "-A {rule}");
    }
    for jump in missing {
        let _ = writeln!(text, "-I {jump}");
    }
    restore(tool, text).await
}

/// Removes these jumps and chains, as far as they are there.
async fn clear(tool: &str, chains: &[String], jumps: &[String]) -> Result<(), CommandError> {
    let present = list(tool).await?;
    let mut text = "*filter\n".to_owned();
    for jump in present.iter().filter(|rule| jumps.contains(rule)) {
        let _ = writeln!(text, "-D {jump}");
    }
    let is_there = |chain: &&String| present.iter().any(|rule| chain_of(rule) == *chain);
    let there: Vec<&String> = chains.iter().filter(is_there).collect();
    for action in ["-F", "-X"] {
        for chain in &there {
            let _ = writeln!(text, "{action} {chain}");
        }
    }
    restore(tool, text).await
}

/// The rules of a table without their `-A`.
async fn list(tool: &str) -> Result<Vec<String>, CommandError> {
    let text = command::run(tool, &["-w", "10", "-S"], "").await?;
    let rules = text.lines().filter_map(|line| line.strip_prefix("-A "));
    Ok(rules.map(str::to_owned).collect())
}

async fn restore(tool: &str, mut text: String) -> Result<(), CommandError> {
    text.push_str("COMMIT\n");
    let tool = format!("{tool}-restore");
    command::run(&tool, &["-w", "10", "--noflush"], &text).await?;
    Ok(())
}

fn chain_of(rule: &str) -> &str {
    rule.split(' ').next().unwrap_or_default()
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
        let at = |rule: String| rules.iter().position(|one| *one == rule);
        for network in ["10.0.0.0/8", "169.254.0.0/16", "198.51.0.0/16"] {
            assert!(at(format!("{out} -d {network} -j DROP")).is_some());
        }
        let dns = format!("{out} -d 10.0.0.53/32 -p udp -m udp --dport 53 -j RETURN");
        assert!(
            at(dns).expect("DNS") < at(format!("{out} -d 10.0.0.0/8 -j DROP")).expect("closed")
        );
        for chain in [to, input] {
            let last = rules.iter().rfind(|rule| chain_of(rule) == chain);
            assert_eq!(last, Some(&format!("{chain} -j DROP")));
        }
        assert!(firewall.chains().iter().all(|name| name.len() < 29));
    }

    #[test]
    fn resolvers_on_loopback_need_no_rule() {
        let text = "# hello\nnameserver 127.0.0.53\nnameserver 10.1.2.3\nsearch x\nnameserver fe80::1%eth0\n";
        let expected: IpAddr = "10.1.2.3".parse().expect("an address");
        assert_eq!(resolvers_in(text), [expected]);
    }

    #[tokio::test]
    async fn rules_are_laid_as_they_are_listed_and_taken_away() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: rules need root");
            return;
        }
        let firewall = Firewall::new(HostId::new(), Vec::new());
        let input = firewall.chains()[2].clone();
        // Without an engine there is no DOCKER-USER.
        let (rules, jumps) = (firewall.rules(&[]), firewall.jumps()[2..].to_vec());
        let chains = firewall.chains();
        lay("iptables", &chains, &rules, &jumps)
            .await
            .expect("laid");
        lay("iptables", &chains, &rules, &jumps)
            .await
            .expect("are there");
        let own = |rule: &String| rule.contains(&firewall.chain);
        let present: Vec<String> = list("iptables").await.expect("listed");
        let mut present: Vec<String> = present.into_iter().filter(own).collect();
        let mut wanted = [jumps.clone(), rules].concat();
        present.sort();
        wanted.sort();
        assert_eq!(present, wanted);
        assert_eq!(
            wanted.iter().filter(|rule| rule.ends_with(&input)).count(),
            1
        );
        clear("iptables", &chains, &jumps).await.expect("removed");
        let left = list("iptables").await.expect("listed");
        assert!(!left.iter().any(own));
    }
}
