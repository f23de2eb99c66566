//! What this host allows, whatever the control plane says: a TOML file that only the host's owner writes.
//!
//! ```toml
//! images = ["registry.example.com/*", "freehold/base:*"]   # `*` stands for any characters; default: every image
//! mounts = ["/srv/datasets"]                               # host folders that instances may be given; default: none
//! capabilities = ["CHOWN", "SETUID"]                       # ceiling of an instance's capabilities; default: Docker's, less NET_RAW, MKNOD
//! dedicated = false                                        # true: a container that is not ours fails the health gate
//! scratch_dir = "/var/lib/freehold/scratch"                # default: `scratch` in the data directory
//! max_scratch_gib = 4000                                   # ceiling of one instance's scratch; default: none
//! denied_networks = ["192.0.2.0/24"]                       # closed to instances beyond what always is; default: none
//! require_encrypted_scratch = true                         # false: a host without encryption may still serve
//! ```

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

/// Where the policy is looked for when no file is named.
pub const DEFAULT_PATH: &str = "/etc/freehold/agent-policy.toml";

/// Docker's default capabilities less `NET_RAW` and `MKNOD`.
pub const DEFAULT_CAPABILITIES: [&str; 12] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The host's own limits. An unknown key is an error that names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Patterns of images that may run; `*` stands for any characters.
    pub images: Vec<String>,
    /// Host folders that may be mounted into instances.
    pub mounts: Vec<PathBuf>,
    /// The capabilities an instance may have at most, without `CAP_`.
    pub capabilities: Vec<String>,
    /// Nothing else runs on this host: an unknown container fails the health gate.
    pub dedicated: bool,
    /// Where scratches are kept.
    pub scratch_dir: Option<PathBuf>,
    /// Ceiling of one instance's scratch in GiB.
    pub max_scratch_gib: Option<u64>,
    /// Networks that instances cannot reach, beyond those that are always closed.
    pub denied_networks: Vec<Network>,
    /// An instance whose scratch cannot be encrypted is refused.
    pub require_encrypted_scratch: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            images: vec!["*".to_owned()],
            mounts: Vec::new(),
            capabilities: DEFAULT_CAPABILITIES.map(str::to_owned).to_vec(),
            dedicated: false,
            scratch_dir: None,
            max_scratch_gib: None,
            denied_networks: Vec::new(),
            require_encrypted_scratch: true,
        }
    }
}

/// Why a policy file is not usable. The agent does not start: guessing at what the owner allows would be worse.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("cannot read the policy file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("the policy file {path} is not valid: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Which key, and what would be right.
        reason: String,
    },
}

impl Policy {
    /// Reads `path`; without one, [`DEFAULT_PATH`] if it exists, else the defaults.
    ///
    /// # Errors
    /// When the file cannot be read or has an unknown key or a wrong value.
    pub fn load(path: Option<&Path>) -> Result<Self, PolicyError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text).map_err(|reason| PolicyError::Invalid {
                path: file.to_owned(),
                reason,
            }),
            Err(source) if path.is_none() && source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(source) => Err(PolicyError::Read {
                path: file.to_owned(),
                source,
            }),
        }
    }

    /// A policy from its text.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut policy: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        for capability in &mut policy.capabilities {
            let name = capability.trim().to_ascii_uppercase();
            *capability = name.strip_prefix("CAP_").unwrap_or(&name).to_owned();
            if !DEFAULT_CAPABILITIES.contains(&capability.as_str()) {
                return Err(format!(
                    "capabilities: `{capability}` is not one that instances can have; allowed: {}",
                    DEFAULT_CAPABILITIES.join(", ")
                ));
            }
        }
        let folders = policy.mounts.iter().map(|path| ("mounts", path));
        let scratch = policy.scratch_dir.iter().map(|path| ("scratch_dir", path));
        for (key, path) in folders.chain(scratch) {
            if !path.is_absolute() {
                return Err(format!(
                    "{key}: `{}` must be an absolute path",
                    path.display()
                ));
            }
        }
        if policy
            .images
            .iter()
            .any(|pattern| pattern.trim().is_empty())
        {
            return Err("images: a pattern is empty; `*` stands for every image".to_owned());
        }
        Ok(policy)
    }

    /// Whether an image may run here.
    #[must_use]
    pub fn allows_image(&self, image: &str) -> bool {
        self.images.iter().any(|pattern| matches(pattern, image))
    }

    /// Whether a host folder, or the folder it lies in, may be mounted. `path` must be free of symbolic links and `..`.
    #[must_use]
    pub fn allows_mount(&self, path: &Path) -> bool {
        self.mounts.iter().any(|allowed| path.starts_with(allowed))
    }

    /// Those of `wanted` that the ceiling leaves.
    #[must_use]
    pub fn limit_capabilities<'a>(&self, wanted: &[&'a str]) -> Vec<&'a str> {
        let within = |name: &&&str| self.capabilities.iter().any(|allowed| allowed == **name);
        wanted.iter().filter(within).copied().collect()
    }

    /// Ceiling of one instance's scratch in bytes.
    #[must_use]
    pub fn max_scratch_bytes(&self) -> Option<u64> {
        self.max_scratch_gib.map(|gib| gib.saturating_mul(1 << 30))
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// An IP network in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether it is an IPv4 network.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is not a network; write one as `192.0.2.0/24`");
        let (address, prefix) = text.split_once('/').ok_or_else(refuse)?;
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let prefix: u8 = prefix.parse().map_err(|_| refuse())?;
        if prefix > if address.is_ipv4() { 32 } else { 128 } {
            return Err(refuse());
        }
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_allows_what_the_defaults_allow() {
        let policy = Policy::parse("").expect("valid");
        assert_eq!(policy, Policy::default());
        assert!(policy.allows_image("anything:at-all"));
        assert!(policy.require_encrypted_scratch && !policy.dedicated);
        assert!(!policy.allows_mount(Path::new("/srv")));
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = Policy::parse("dedicatd = true").expect_err("a typing error");
        assert!(error.contains("dedicatd"), "{error}");
        assert!(error.contains("dedicated"), "{error}");
    }

    #[test]
    fn wrong_values_are_named() {
        for (text, key) in [
            ("capabilities = ['SYS_ADMIN']", "SYS_ADMIN"),
            ("mounts = ['srv']", "mounts"),
            ("scratch_dir = 'here'", "scratch_dir"),
            ("images = ['']", "images"),
            ("denied_networks = ['10.0.0.0']", "10.0.0.0"),
            ("denied_networks = ['10.0.0.0/33']", "10.0.0.0/33"),
        ] {
            let error = Policy::parse(text).expect_err(text);
            assert!(error.contains(key), "{text}: {error}");
        }
    }

    #[test]
    fn image_patterns_match_whole_names() {
        let cases = [
            ("*", "a/b:c", true),
            ("freehold/base:*", "freehold/base:1", true),
            ("freehold/base:*", "evil/freehold/base:1", false),
            ("registry/*/cuda:*", "registry/team/cuda:12", true),
            ("registry/*/cuda:*", "registry/team/rocm:12", false),
            ("exact", "exact", true),
            ("exact", "exact2", false),
            ("a*a", "a", false),
        ];
        for (pattern, image, expected) in cases {
            assert_eq!(matches(pattern, image), expected, "{pattern} {image}");
        }
    }

    #[test]
    fn the_capability_ceiling_only_takes_away() {
        let policy = Policy::parse("capabilities = ['CAP_CHOWN', 'setuid']").expect("valid");
        assert_eq!(
            policy.limit_capabilities(&["CHOWN", "SETUID", "KILL"]),
            ["CHOWN", "SETUID"]
        );
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let missing = Path::new("/nonexistent/policy.toml");
        assert!(matches!(
            Policy::load(Some(missing)),
            Err(PolicyError::Read { .. })
        ));
    }
}
