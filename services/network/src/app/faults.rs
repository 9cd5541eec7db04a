//! The API's own names for what goes wrong.

use yakumo_types::{Fault, FaultCode};

/// 400 `InvalidInput`.
pub fn invalid(message: impl Into<String>) -> Fault {
    Fault::invalid(message).with_type("InvalidInput")
}

/// Gives a 400 from elsewhere the API's name.
pub fn as_invalid_input(fault: Fault) -> Fault {
    if fault.code == FaultCode::Invalid && fault.details.is_none() {
        return fault.with_type("InvalidInput");
    }
    fault
}

fn missing(kind: &str, name: &str, id: &str) -> Fault {
    let id: String = id.chars().take(64).collect();
    Fault::not_found(format!("{name} {id} could not be found.")).with_type(kind)
}

macro_rules! missing {
    ($($fun:ident = $kind:literal, $name:literal;)*) => {$(
        /// 404.
        pub fn $fun(id: &str) -> Fault {
            missing($kind, $name, id)
        }
    )*};
}

missing! {
    no_network = "NetworkNotFound", "Network";
    no_subnet = "SubnetNotFound", "Subnet";
    no_port = "PortNotFound", "Port";
    no_security_group = "SecurityGroupNotFound", "Security group";
    no_rule = "SecurityGroupRuleNotFound", "Security group rule";
    no_floating_ip = "FloatingIPNotFound", "Floating IP";
    no_router = "RouterNotFound", "Router";
    no_agent = "AgentNotFound", "Agent";
}

/// 409 with a type name.
pub fn conflict(kind: &str, message: impl Into<String>) -> Fault {
    Fault::conflict(message).with_type(kind)
}

/// 409: a quota does not allow it.
pub fn over_quota(resource: &str) -> Fault {
    Fault::over_quota(format!("Quota exceeded for resources: ['{resource}']."))
        .with_type("OverQuota")
}

/// 409: no address is left.
pub fn no_address(network: &str) -> Fault {
    conflict(
        "IpAddressGenerationFailure",
        format!("No more IP addresses available on network {network}."),
    )
}

/// 409: the address has an owner.
pub fn address_in_use(network: &str, address: &str) -> Fault {
    conflict(
        "IpAddressInUse",
        format!(
            "Unable to complete operation for network {network}: the IP address {address} is in use."
        ),
    )
}
