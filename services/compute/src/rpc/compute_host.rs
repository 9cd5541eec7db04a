//! `proto/compute_host.proto`: reads and checks what the control plane sends,
//! and hands it to the server's owner.
//!
//! Everything that will end up in a path, in a domain's XML or on a command
//! line is checked here, before it is stored: an owner trusts its record.

use async_trait::async_trait;
use yakumo_contracts::common::Empty;
use yakumo_contracts::compute_host::{
    ClaimServerReply, ClaimServerRequest, ComputeHostServer, ConsoleLogReply, ConsoleLogRequest,
    DesiredServer, ListServersReply, ListServersRequest, NetworkPort, Power, Resources,
    ServerRequest, ServerSpec, SetDesiredRequest, VolumeConnection,
};
use yakumo_rpc::Incoming;
use yakumo_types::{Fault, ServerId, VolumeId};

use crate::agent::Agent;
use crate::claims::Amount;

/// Servers on one page of a listing, at most.
const PAGE: usize = 1000;

/// The most of a console log that is sent: well below what a message may hold.
const CONSOLE_BYTES: usize = 256 * 1024;

/// Bounds of a config drive, all files together.
const CONFIG_DRIVE_FILES: usize = 64;
const CONFIG_DRIVE_BYTES: usize = 512 * 1024;

/// Devices of one server, each of ports and volumes.
const DEVICES: usize = 26;

pub(crate) struct ComputeHostService {
    agent: Agent,
}

impl ComputeHostService {
    pub(crate) fn new(agent: Agent) -> Self {
        Self { agent }
    }
}

#[async_trait]
impl ComputeHostServer for ComputeHostService {
    async fn claim_server(
        &self,
        call: &Incoming,
        request: ClaimServerRequest,
    ) -> Result<ClaimServerReply, Fault> {
        call.sender.require_control()?;
        let server = server_id(&request.server_id)?;
        let amount = amount(request.resources.as_ref())?;
        self.agent
            .claim(
                server,
                request.generation,
                amount,
                request.project_id,
                request.fence,
            )
            .await
    }

    async fn release_claim(&self, call: &Incoming, request: ServerRequest) -> Result<Empty, Fault> {
        call.sender.require_control()?;
        let server = server_id(&request.server_id)?;
        self.agent
            .release(server, request.generation, request.fence)
            .await?;
        Ok(Empty {})
    }

    async fn set_desired(
        &self,
        call: &Incoming,
        request: SetDesiredRequest,
    ) -> Result<Empty, Fault> {
        call.sender.require_control()?;
        let desired = request
            .server
            .ok_or_else(|| Fault::invalid("The desired state is missing."))?;
        let server = check(&desired)?;
        self.agent
            .set_desired(server, desired, request.fence, call.context.request_id)
            .await?;
        Ok(Empty {})
    }

    async fn confirm_absent(
        &self,
        call: &Incoming,
        request: ServerRequest,
    ) -> Result<Empty, Fault> {
        call.sender.require_control()?;
        let server = server_id(&request.server_id)?;
        self.agent
            .confirm_absent(server, request.generation, request.fence)
            .await?;
        Ok(Empty {})
    }

    async fn get_console_log(
        &self,
        call: &Incoming,
        request: ConsoleLogRequest,
    ) -> Result<ConsoleLogReply, Fault> {
        call.sender.require_control()?;
        let server = server_id(&request.server_id)?;
        let bytes = self.agent.console_log(server, CONSOLE_BYTES).await?;
        let lines = usize::try_from(request.lines).unwrap_or(usize::MAX);
        Ok(ConsoleLogReply {
            output: last_lines(&String::from_utf8_lossy(&bytes), lines).to_owned(),
        })
    }

    async fn list_servers(
        &self,
        call: &Incoming,
        request: ListServersRequest,
    ) -> Result<ListServersReply, Fault> {
        call.sender.require_control()?;
        let page = request.page.unwrap_or_default();
        let marker = match page.marker.as_str() {
            "" => None,
            marker => Some(server_id(marker)?),
        };
        let limit = match usize::try_from(page.limit).unwrap_or(PAGE) {
            0 => PAGE,
            limit => limit.min(PAGE),
        };
        let (servers, claims, next) = self.agent.list(marker, limit)?;
        Ok(ListServersReply {
            servers,
            claims: claims.iter().map(ToString::to_string).collect(),
            next: next.map(|next| next.to_string()).unwrap_or_default(),
        })
    }
}

fn server_id(text: &str) -> Result<ServerId, Fault> {
    text.parse()
        .map_err(|error: yakumo_types::ParseIdError| Fault::invalid(format!("{error}.")))
}

fn amount(resources: Option<&Resources>) -> Result<Amount, Fault> {
    let resources = resources.ok_or_else(|| Fault::invalid("The resources are missing."))?;
    if resources.vcpus == 0 || resources.memory_mib == 0 {
        return Err(Fault::invalid(
            "A server needs at least one vCPU and one MiB of memory.",
        ));
    }
    Ok(Amount::from(resources))
}

/// The last `lines` lines; all of them for zero.
fn last_lines(text: &str, lines: usize) -> &str {
    if lines == 0 {
        return text;
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    match body.rmatch_indices('\n').nth(lines.saturating_sub(1)) {
        Some((index, _)) => text.get(index.saturating_add(1)..).unwrap_or_default(),
        None => text,
    }
}

fn check(desired: &DesiredServer) -> Result<ServerId, Fault> {
    let server = server_id(&desired.server_id)?;
    if desired.generation == 0 {
        return Err(Fault::invalid("The generation is missing."));
    }
    if desired.stop_timeout_seconds > 86_400 {
        return Err(Fault::invalid("A guest gets at most a day to stop."));
    }
    match Power::try_from(desired.power) {
        Ok(Power::Absent) => return Ok(server),
        Ok(Power::Running | Power::Stopped | Power::Paused) => {}
        Ok(Power::Unspecified) | Err(_) => {
            return Err(Fault::invalid("The power state is missing."));
        }
    }
    let spec = desired
        .spec
        .as_ref()
        .ok_or_else(|| Fault::invalid("The server's specification is missing."))?;
    check_spec(spec)?;
    Ok(server)
}

fn check_spec(spec: &ServerSpec) -> Result<(), Fault> {
    amount(spec.flavor.as_ref())?;
    for (what, text) in [
        ("name", &spec.name),
        ("hostname", &spec.hostname),
        ("flavor's name", &spec.flavor_name),
        ("project's id", &spec.project_id),
        ("user's id", &spec.user_id),
    ] {
        if text.len() > 1024 || text.chars().any(char::is_control) {
            return Err(Fault::invalid(format!(
                "The {what} is too long or holds control characters."
            )));
        }
    }
    let image = spec
        .image
        .as_ref()
        .ok_or_else(|| Fault::invalid("The server's image is missing."))?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if image.sha512.len() != 128 || !image.sha512.bytes().all(is_hex) {
        return Err(Fault::invalid("The image's SHA-512 is unreadable."));
    }
    if !matches!(image.disk_format.as_str(), "raw" | "qcow2") {
        return Err(Fault::invalid(format!(
            "This host cannot boot images of the format {:?}.",
            image.disk_format
        )));
    }
    if spec.ports.len() > DEVICES || spec.volumes.len() > DEVICES {
        return Err(Fault::invalid("The server has too many ports or volumes."));
    }
    spec.ports.iter().try_for_each(check_port)?;
    spec.volumes.iter().try_for_each(check_volume)?;
    check_config_drive(spec)
}

fn check_port(port: &NetworkPort) -> Result<(), Fault> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !(1..=15).contains(&port.tap.len()) || !port.tap.bytes().all(plain) {
        return Err(Fault::invalid("A port's tap has no valid interface name."));
    }
    let octets: Vec<&str> = port.mac_address.split(':').collect();
    let is_octet =
        |octet: &&str| octet.len() == 2 && octet.bytes().all(|byte| byte.is_ascii_hexdigit());
    if octets.len() != 6 || !octets.iter().all(is_octet) {
        return Err(Fault::invalid("A port's MAC address is unreadable."));
    }
    if port.mtu != 0 && !(68..=65_535).contains(&port.mtu) {
        return Err(Fault::invalid("A port's MTU is out of range."));
    }
    Ok(())
}

fn check_volume(volume: &VolumeConnection) -> Result<(), Fault> {
    volume
        .volume_id
        .parse::<VolumeId>()
        .map_err(|error| Fault::invalid(format!("{error}.")))?;
    let socket = std::path::Path::new(&volume.nbd_socket);
    // A socket's address has room for 107 bytes.
    if !socket.is_absolute() || volume.nbd_socket.len() > 107 {
        return Err(Fault::invalid("A volume's socket has no valid path."));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if volume.nbd_export.is_empty()
        || volume.nbd_export.len() > 255
        || !volume.nbd_export.bytes().all(plain)
    {
        return Err(Fault::invalid("A volume's export has no valid name."));
    }
    let letters = volume
        .device
        .strip_prefix("/dev/")
        .unwrap_or(&volume.device)
        .strip_prefix("vd")
        .unwrap_or_default();
    if !(1..=2).contains(&letters.len())
        || !letters.bytes().all(|byte| byte.is_ascii_lowercase())
        || letters == "a"
    {
        return Err(Fault::invalid(
            "A volume's device must be vdb to vdzz; vda is the server's own disk.",
        ));
    }
    if volume.serial.len() > 20 || !volume.serial.bytes().all(plain) {
        return Err(Fault::invalid("A volume's serial number is unreadable."));
    }
    Ok(())
}

fn check_config_drive(spec: &ServerSpec) -> Result<(), Fault> {
    let bytes: usize = spec.config_drive.values().map(Vec::len).sum();
    if spec.config_drive.len() > CONFIG_DRIVE_FILES || bytes > CONFIG_DRIVE_BYTES {
        return Err(Fault::too_large("The config drive is too large."));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let sane = |part: &str| {
        (1..=64).contains(&part.len()) && part != "." && part != ".." && part.bytes().all(plain)
    };
    for path in spec.config_drive.keys() {
        if path.len() > 200 || !path.split('/').all(sane) {
            return Err(Fault::invalid(
                "A file of the config drive has no valid path.",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_lines() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last_lines("a\nb\nc", 1), "c");
        assert_eq!(last_lines("a\nb\n", 9), "a\nb\n");
        assert_eq!(last_lines("a\nb\n", 0), "a\nb\n");
        assert_eq!(last_lines("", 3), "");
    }

    #[test]
    fn what_could_leave_its_place_is_refused() {
        let drive = |path: &str| ServerSpec {
            config_drive: [(path.to_owned(), Vec::new())].into(),
            ..ServerSpec::default()
        };
        assert!(check_config_drive(&drive("openstack/latest/meta_data.json")).is_ok());
        for bad in ["../x", "/etc/passwd", "a//b", "a/./b", "-o'x\n", ""] {
            assert!(check_config_drive(&drive(bad)).is_err(), "{bad:?}");
        }
        let port = |tap: &str, mac: &str| NetworkPort {
            tap: tap.into(),
            mac_address: mac.into(),
            ..NetworkPort::default()
        };
        assert!(check_port(&port("yk-0123456789a", "fa:16:3e:00:00:01")).is_ok());
        assert!(check_port(&port("a/b", "fa:16:3e:00:00:01")).is_err());
        assert!(check_port(&port("tap", "fa:16:3e:00:00:0'")).is_err());
    }
}
