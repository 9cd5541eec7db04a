//! `yakumo host token` and `yakumo host remove`: how operators let hosts in
//! and see them off. What the host itself does is in `join`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use sha2::{Digest as _, Sha256};
use yakumo_api::JoinConfig;
use yakumo_auth::SigningKey;
use yakumo_contracts::api::{AddHostTokenRequest, HostAdminClient, RemoveHostRequest};
use yakumo_rpc::{Bus, Target, broker_address, is_host_name};
use yakumo_service::system_env;
use yakumo_types::RequestContext;

use crate::config::Config;
use crate::operator::{over_bus, say};

/// What is said where there is no broker.
const IN_ONE_PROCESS: &str =
    "a cloud in one process is one machine, and has no bus that others could join";

/// How long the api service may take: it asks the broker and other services.
const BOUND: Duration = Duration::from_secs(50);

/// Reads `90`, `90s`, `30m`, `2h` or `1d`.
pub fn lifetime(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("a time is a whole number with s, m, h or d".to_owned()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(seconds))
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(|| "a time is a whole number above zero with s, m, h or d".to_owned())
}

/// What the api service needs to let hosts in; nothing where it cannot.
pub fn join_config(config: &Config) -> anyhow::Result<Option<JoinConfig>> {
    let bus = &config.bus;
    let management = &bus.management;
    if bus.url.is_empty() || management.url.is_empty() {
        return Ok(None);
    }
    ensure!(
        !management.user.is_empty() && !management.password.is_empty(),
        "bus.management.user and bus.management.password are needed beside bus.management.url"
    );
    let read = |file: &std::path::Path| {
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
    };
    let broker_ca = bus.ca_file.as_deref().map(read).transpose()?;
    let management_ca = match &management.ca_file {
        Some(file) => Some(read(file)?),
        None => broker_ca.clone(),
    };
    let (own_address, vhost) = broker_address(bus.url.reveal()).context("bus.url")?;
    let broker_url = if management.host_url.is_empty() {
        own_address
    } else {
        broker_address(&management.host_url)
            .context("bus.management.host_url")?
            .0
    };
    let mut context_public_keys = bus.context_public_keys.clone();
    if !bus.context_key.is_empty() {
        let own = SigningKey::from_text(bus.context_key.reveal()).context("bus.context_key")?;
        context_public_keys.insert(0, own.verifying_key().to_text());
    }
    Ok(Some(JoinConfig {
        management: yakumo_rpc::ManagementConfig {
            url: management.url.clone(),
            user: management.user.clone(),
            password: management.password.reveal().to_owned(),
            vhost,
            ca: management_ca,
        },
        broker_url,
        broker_ca,
        context_public_keys,
    }))
}

fn client(bus: &Bus) -> HostAdminClient {
    HostAdminClient::new(bus.clone(), Target::service("api")).with_deadline(BOUND)
}

fn check(host: &str) -> anyhow::Result<()> {
    ensure!(
        is_host_name(host),
        "{host:?} is no name for a host: 1 to 200 letters, digits, dots, dashes and underscores"
    );
    Ok(())
}

/// `yakumo host token`: the secret part of what it prints is kept nowhere.
pub fn token(config: &Config, host: &str, lifetime: Duration) -> anyhow::Result<ExitCode> {
    check(host)?;
    let env = system_env();
    let mut bytes = [0; 40];
    env.rng.fill(&mut bytes);
    let (id, secret) = bytes.split_at(8);
    let (token_id, secret) = (hex::encode(id), hex::encode(secret));
    let request = AddHostTokenRequest {
        host: host.to_owned(),
        token_id: token_id.clone(),
        secret_hash: hex::encode(Sha256::digest(&secret)),
        lifetime_seconds: lifetime.as_secs(),
    };
    over_bus(config, IN_ONE_PROCESS, async |bus| {
        let context = RequestContext::internal(env.id());
        client(bus).add_host_token(&context, request).await?;
        Ok(())
    })?;
    let Some(url) = front_door(config) else {
        bail!("the catalog names no compute API that a host could be sent to");
    };
    let minutes = lifetime.as_secs().div_ceil(60);
    say(format_args!(
        "# For the host {host}, once, within {minutes} min. On that machine:"
    ));
    say(format_args!(
        "yakumo host join --url {url} --name {host} --token ykj-{token_id}-{secret}"
    ));
    Ok(ExitCode::SUCCESS)
}

/// Where the compute API is for the rest of the world, without its version.
fn front_door(config: &Config) -> Option<String> {
    let public = &config.identity.bootstrap.endpoints.get("compute")?.public;
    let trimmed = public.trim_end_matches('/');
    let bare = trimmed
        .strip_suffix("/v2.1")
        .or_else(|| trimmed.strip_suffix("/v2"));
    Some(bare.unwrap_or(trimmed).to_owned())
}

/// `yakumo host remove`
pub fn remove(config: &Config, host: &str) -> anyhow::Result<ExitCode> {
    check(host)?;
    let reply = over_bus(config, IN_ONE_PROCESS, async |bus| {
        let context = RequestContext::internal(system_env().id());
        let request = RemoveHostRequest {
            host: host.to_owned(),
        };
        Ok(client(bus).remove_host(&context, request).await?)
    })?;
    if reply.was_known {
        say(format_args!("{host} is removed."));
    } else {
        say(format_args!("Nothing was known of {host}."));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        let seconds = |text: &str| lifetime(text).map(|time| time.as_secs());
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("30m"), Ok(1800));
        assert_eq!(seconds("2h"), Ok(7200));
        assert_eq!(seconds("1d"), Ok(86_400));
        for bad in ["", "m", "0", "-1", "1w", "1.5h", "99999999999999999999d"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }
}
