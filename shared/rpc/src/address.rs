//! Who speaks to whom, and about what.

use std::fmt;

use yakumo_types::Fault;

/// Where messages of one kind wait to be handled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A control service, for example `network`: any one instance of it takes
    /// the message, and a fanout reaches all of them.
    Control(&'static str),
    /// One host process with all its roles.
    Host(String),
}

impl Topic {
    /// `network`, or `host.node-1`.
    pub fn name(&self) -> String {
        match self {
            Self::Control(name) => (*name).to_owned(),
            Self::Host(name) => format!("host.{name}"),
        }
    }

    pub(crate) fn is_host(&self) -> bool {
        matches!(self, Self::Host(_))
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control(name) => out.write_str(name),
            Self::Host(name) => write!(out, "host.{name}"),
        }
    }
}

/// Whether a host of this name can exist: letters, digits, `.`, `_` and `-`,
/// 1 to 200 of them. Anything else could reach into patterns and queue names.
pub fn is_host_name(name: &str) -> bool {
    (1..=200).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// The receiver of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where the message goes.
    pub topic: Topic,
}

impl Target {
    /// Any one instance of a control service.
    pub fn service(name: &'static str) -> Self {
        Self {
            topic: Topic::Control(name),
        }
    }

    /// The process of one host.
    pub fn host(name: impl Into<String>) -> Self {
        Self {
            topic: Topic::Host(name.into()),
        }
    }
}

/// The version of a contract: the same major is required, and a server must be
/// at least as new as its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Raised by a change that old callers would not survive.
    pub major: u32,
    /// Raised by a compatible addition.
    pub minor: u32,
}

impl Version {
    /// Whether a server of this version understands a caller of version `caller`.
    pub const fn accepts(self, caller: Self) -> bool {
        self.major == caller.major && self.minor >= caller.minor
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

/// One method of one contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MethodId {
    /// The contract's name on the wire, for example `network.v1.Network`.
    pub service: &'static str,
    /// The method's name.
    pub method: &'static str,
    /// The version of the contract that the caller was built with.
    pub version: Version,
}

/// How a message was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Somebody waits for the reply.
    Call,
    /// Handed over for good.
    Cast,
    /// To every instance.
    Fanout,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Cast => "cast",
            Self::Fanout => "fanout",
        }
    }
}

/// Who sent a message, as vouched for by the transport.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A control service.
    Control,
    /// The host of this name, which may speak for nobody else.
    Host(String),
}

impl Principal {
    /// Refuses (403) a sender that is not the host `name`: what every method
    /// does that takes a host's word about itself.
    pub fn require_host(&self, name: &str) -> Result<(), Fault> {
        if matches!(self, Self::Host(host) if host == name) {
            return Ok(());
        }
        Err(Fault::forbidden(format!(
            "Only the host {name} may say this."
        )))
    }

    /// Refuses (403) hosts.
    pub fn require_control(&self) -> Result<(), Fault> {
        match self {
            Self::Control => Ok(()),
            Self::Host(name) => Err(Fault::forbidden(format!(
                "The host {name} may not do this."
            ))),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => out.write_str("control"),
            Self::Host(name) => write!(out, "host.{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_must_be_as_new_as_its_caller_and_of_the_same_major() {
        let version = |major, minor| Version { major, minor };
        assert!(version(1, 3).accepts(version(1, 3)));
        assert!(version(1, 3).accepts(version(1, 0)));
        assert!(!version(1, 3).accepts(version(1, 4)));
        assert!(!version(2, 0).accepts(version(1, 0)));
    }

    #[test]
    fn a_host_name_cannot_reach_out_of_its_queue() {
        for good in ["node-1", "a.example.org", "sim-0001", "n_1"] {
            assert!(is_host_name(good), "{good}");
        }
        for bad in ["", "*", "a b", "a/b", "a#", "a|b", "ä", &"x".repeat(201)] {
            assert!(!is_host_name(bad), "{bad}");
        }
    }

    #[test]
    fn only_the_named_host_may_speak_for_itself() {
        let host = Principal::Host("a".into());
        assert!(host.require_host("a").is_ok());
        assert!(host.require_host("b").is_err());
        assert!(Principal::Control.require_host("a").is_err());
        assert!(host.require_control().is_err());
    }
}
