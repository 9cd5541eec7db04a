//! Typed ids: a UUID that says what it names, so that a port can never be
//! passed where a server is wanted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is no id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind} id")]
pub struct ParseIdError {
    /// What was wanted, for example `server`.
    pub kind: &'static str,
    /// What was given, cut to 64 characters.
    pub text: String,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that is known to name a thing of this kind.
            pub const fn from_uuid(id: Uuid) -> Self {
                Self(id)
            }

            /// The bare UUID.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }

            /// Thirty-two hexadecimal digits without hyphens, the form in
            /// which OpenStack's identity service writes its ids.
            pub fn simple(&self) -> String {
                self.0.simple().to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.hyphenated(), out)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "{}:{}", $kind, self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            /// Takes a UUID with or without hyphens, in either case.
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                match (text.len(), Uuid::try_parse(text)) {
                    (32 | 36, Ok(id)) => Ok(Self(id)),
                    _ => Err(ParseIdError {
                        kind: $kind,
                        text: text.chars().take(64).collect(),
                    }),
                }
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    )*};
}

ids! {
    /// One attachment of a volume to a server.
    AttachmentId = "attachment";
    /// A stored credential (EC2 access keys among them).
    CredentialId = "credential";
    /// An identity domain.
    DomainId = "domain";
    /// An endpoint in the catalog.
    EndpointId = "endpoint";
    /// A flavor's own id, where the operator gave none.
    FlavorId = "flavor";
    /// A floating IP.
    FloatingIpId = "floating IP";
    /// A group of users.
    GroupId = "group";
    /// A host, made once when its agent first starts.
    HostId = "host";
    /// An image.
    ImageId = "image";
    /// A network.
    NetworkId = "network";
    /// A port.
    PortId = "port";
    /// A project, the unit of tenancy.
    ProjectId = "project";
    /// One request of a client (`req-…`).
    RequestId = "request";
    /// A role.
    RoleId = "role";
    /// A router.
    RouterId = "router";
    /// A security group.
    SecurityGroupId = "security group";
    /// A rule of a security group.
    SecurityGroupRuleId = "security group rule";
    /// A server.
    ServerId = "server";
    /// A service in the catalog.
    ServiceId = "service";
    /// A snapshot of a volume.
    SnapshotId = "snapshot";
    /// A subnet.
    SubnetId = "subnet";
    /// A user.
    UserId = "user";
    /// A volume.
    VolumeId = "volume";
    /// A volume type.
    VolumeTypeId = "volume type";
    /// A workflow.
    WorkflowId = "workflow";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_with_and_without_hyphens_and_nothing_else() {
        let id: ServerId = "6F1E9F0C2B4D4E0F8A4B1C2D3E4F5A6B".parse().unwrap();
        assert_eq!(id.to_string(), "6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b");
        assert_eq!(id.simple().parse::<ServerId>().unwrap(), id);
        for text in [
            "",
            "x",
            "{6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b}",
            "urn:uuid:6f1e9f0c-2b4d-4e0f-8a4b-1c2d3e4f5a6b",
        ] {
            assert!(text.parse::<ServerId>().is_err(), "{text:?}");
        }
    }
}
