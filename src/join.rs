//! `yakumo host join`: makes this machine a host of a cloud.
//!
//! It shows the token at the cloud's front door, writes what it is told into
//! the configuration file, makes sure that the broker takes it, and goes on as
//! `yakumo compute`. Until the host has registered, all of it may be repeated
//! with the same token.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use toml::{Table, Value as Toml};
use yakumo_rpc::{BusHealth, is_host_name};
use yakumo_service::{Process, system_env};
use yakumo_types::{Env, HostId};

use crate::cli::Service;
use crate::config::Config;
use crate::context::start_bus;
use crate::operator::{runtime, say};
use crate::run;

/// Where the configuration goes if nobody says where.
const USUAL_FILE: &str = "/etc/yakumo/yakumo.toml";
/// How long one request may take: the cloud asks its broker meanwhile.
const REQUEST_BOUND: Duration = Duration::from_secs(15);
/// How often a request is sent that gets no answer, or the advice to try again.
const ATTEMPTS: u32 = 4;
/// How long the broker may take to let the host in.
const BROKER_BOUND: Duration = Duration::from_secs(20);

/// What is said on the command line.
#[derive(Args)]
pub struct Wanted {
    /// Where the cloud's compute API is.
    #[arg(long)]
    url: String,
    /// What `yakumo host token` printed.
    #[arg(long, env = "YAKUMO_HOST_TOKEN", hide_env_values = true)]
    token: String,
    /// The host's name; that of the configuration or the machine if not given.
    #[arg(long)]
    name: Option<String>,
    /// Certificates (PEM) that the cloud's API is checked against.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Writes the configuration and starts nothing.
    #[arg(long)]
    no_start: bool,
}

/// It holds the token.
impl std::fmt::Debug for Wanted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Wanted")
            .field("url", &self.url)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The cloud's answer.
#[derive(Deserialize)]
struct Welcome {
    host: WelcomedHost,
}

#[derive(Deserialize)]
struct WelcomedHost {
    bus: WelcomedBus,
}

#[derive(Deserialize)]
struct WelcomedBus {
    url: String,
    ca: Option<String>,
    context_public_keys: Vec<String>,
}

/// `yakumo host join`
pub fn join(
    file: Option<&Path>,
    overrides: &[(String, String)],
    wanted: &Wanted,
) -> anyhow::Result<ExitCode> {
    let env = system_env();
    let file = file.unwrap_or(Path::new(USUAL_FILE));
    let before = read(file)?;
    let named = Config::load(before.is_some().then_some(file), overrides)?;
    let before = before.unwrap_or_default();
    let name = host_name(wanted, &before, &named)?;
    check_before(file, &before, &name)?;

    let mut compute = named.compute.clone();
    compute.host.clone_from(&name);
    std::fs::create_dir_all(&named.data_dir)
        .with_context(|| format!("making the data folder {}", named.data_dir.display()))?;
    let host_id = yakumo_compute::host_id(&compute, &env).context("the host's own id")?;

    run::choose_tls_library();
    let runtime = runtime()?;
    let welcome = runtime.block_on(ask(&env, wanted, &name, host_id))?;
    let text = merged(file, before, &name, &welcome.host.bus)?;
    write(file, &text)?;
    say(format_args!("{} is written.", file.display()));

    let config = Config::load(Some(file), overrides)?;
    runtime.block_on(check_broker(&config)).with_context(|| {
        format!(
            "{} is good, but the broker does not let the host in yet; when it does: yakumo \
             --config {} compute",
            file.display(),
            file.display()
        )
    })?;
    drop(runtime);
    if wanted.no_start {
        say("The broker knows the host. Start it with:");
        say(format_args!("yakumo --config {} compute", file.display()));
        return Ok(ExitCode::SUCCESS);
    }
    say(format_args!("{name} is let in, and starts."));
    run::run(config, vec![Service::Compute])
}

/// The file as it is; nothing if it is not there.
fn read(file: &Path) -> anyhow::Result<Option<Table>> {
    match std::fs::read_to_string(file) {
        Ok(text) => {
            Ok(Some(text.parse::<Table>().with_context(|| {
                format!("{} is no TOML", file.display())
            })?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

fn setting<'t>(table: &'t Table, section: &str, key: &str) -> Option<&'t Toml> {
    table.get(section)?.get(key)
}

fn host_name(wanted: &Wanted, before: &Table, named: &Config) -> anyhow::Result<String> {
    let own = setting(before, "host", "name").and_then(Toml::as_str);
    let name = wanted
        .name
        .clone()
        .or_else(|| own.filter(|name| !name.is_empty()).map(str::to_owned))
        .unwrap_or_else(|| named.host.name.clone());
    ensure!(
        is_host_name(&name),
        "{name:?} is no name for a host: 1 to 200 letters, digits, dots, dashes and underscores"
    );
    Ok(name)
}

/// Refuses to make somebody else's configuration this host's.
fn check_before(file: &Path, before: &Table, name: &str) -> anyhow::Result<()> {
    let file = file.display();
    for section in ["host", "compute"] {
        let key = if section == "host" { "name" } else { "host" };
        if let Some(other) = setting(before, section, key).and_then(Toml::as_str)
            && !other.is_empty()
            && other != name
        {
            bail!("{file} is the configuration of another host: {section}.{key} is {other:?}");
        }
    }
    if setting(before, "bus", "context_key").is_some() {
        bail!(
            "{file} is the configuration of a control service: it has bus.context_key, which no \
             host may hold"
        );
    }
    if let Some(url) = setting(before, "bus", "url")
        && url != &Toml::String(String::new())
        && !url
            .as_str()
            .is_some_and(|url| url.contains(&format!("//host.{name}:")))
    {
        bail!("{file} has a bus.url that is not this host's own; take it out to join");
    }
    Ok(())
}

/// Shows the token, and again where nobody knows what became of that.
async fn ask(env: &Env, wanted: &Wanted, name: &str, host_id: HostId) -> anyhow::Result<Welcome> {
    let mut client = reqwest::Client::builder()
        .timeout(REQUEST_BOUND)
        // The answer holds a password, and nobody but the cloud may send it.
        .redirect(reqwest::redirect::Policy::none());
    if let Some(file) = &wanted.ca_file {
        let pem = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?);
    }
    let client = client.build()?;
    let url = format!("{}/yakumo/v1/join", wanted.url.trim_end_matches('/'));
    let body = json!({ "token": wanted.token, "host": name, "host_id": host_id });
    let mut attempt = 1;
    loop {
        let answer = client.post(&url).json(&body).send().await;
        let again = match answer {
            Ok(answer) if answer.status().is_success() => {
                return answer
                    .json()
                    .await
                    .context("what the cloud answered cannot be read");
            }
            Ok(answer) => {
                let status = answer.status();
                let text = answer.text().await.unwrap_or_default();
                let error = anyhow::anyhow!("the cloud says: {}", complaint(status, &text));
                if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS {
                    return Err(error);
                }
                error
            }
            Err(error) => anyhow::Error::new(error).context(format!("asking {url}")),
        };
        if attempt == ATTEMPTS {
            return Err(again);
        }
        attempt += 1;
        env.clock.sleep(Duration::from_secs(1)).await;
    }
}

/// The sentence in an answer of the compute API.
fn complaint(status: StatusCode, text: &str) -> String {
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    let message = document
        .as_object()
        .and_then(|object| object.values().next())
        .and_then(|fault| fault["message"].as_str());
    match message {
        Some(message) => format!("{message} ({})", status.as_u16()),
        None => status.to_string(),
    }
}

/// The file with what the cloud says, and everything else as it was.
fn merged(file: &Path, mut table: Table, name: &str, told: &WelcomedBus) -> anyhow::Result<String> {
    let keys: Vec<Toml> = told
        .context_public_keys
        .iter()
        .map(|key| Toml::String(key.clone()))
        .collect();
    if let Some(Toml::Array(known)) = setting(&table, "bus", "context_public_keys")
        && !known.is_empty()
        && !known.iter().any(|key| keys.contains(key))
    {
        bail!(
            "{} is the configuration of a host of another cloud: none of its \
             bus.context_public_keys is this cloud's. The token stays good",
            file.display()
        );
    }
    let mut put = |section: &str, key: &str, value: Toml| match table
        .entry(section)
        .or_insert_with(|| Toml::Table(Table::new()))
    {
        Toml::Table(section) => {
            section.insert(key.to_owned(), value);
            Ok(())
        }
        _ => Err(anyhow::anyhow!("{section} is no section")),
    };
    put("bus", "url", Toml::String(told.url.clone()))?;
    put("bus", "context_public_keys", Toml::Array(keys))?;
    put("host", "name", Toml::String(name.to_owned()))?;
    if let Some(ca) = &told.ca {
        let ca_file = file.with_file_name("broker-ca.pem");
        put_file(&ca_file, ca, 0o644)?;
        let path = std::path::absolute(&ca_file)?;
        let path = path.to_str().context("the path is no text")?;
        put("bus", "ca_file", Toml::String(path.to_owned()))?;
    }
    Ok(format!(
        "# Written by `yakumo host join`. It holds the host's password for the broker.\n{}",
        toml::to_string_pretty(&table)?
    ))
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    put_file(file, text, 0o600)
}

fn put_file(file: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    if let Some(folder) = file.parent().filter(|it| !it.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("making the folder {}", folder.display()))?;
    }
    yakumo_host::write_durably(file, text.as_bytes(), mode)
        .with_context(|| format!("writing {}", file.display()))
}

/// Waits until the broker has let the host in.
async fn check_broker(config: &Config) -> anyhow::Result<()> {
    let process = Process::new("join", system_env());
    let bus = start_bus(&process, config).await?;
    let connected = async {
        while bus.health() != BusHealth::Connected {
            process.env.clock.sleep(Duration::from_millis(50)).await;
        }
    };
    let outcome = tokio::time::timeout(BROKER_BOUND, connected).await;
    let health = bus.health();
    bus.close().await;
    outcome.map_err(|_| match health {
        BusHealth::TurnedAway(why) => anyhow::anyhow!("the broker does not let the host in: {why}"),
        _ => anyhow::anyhow!("there was no connection to the broker within {BROKER_BOUND:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    fn told() -> WelcomedBus {
        WelcomedBus {
            url: "amqp://host.node-1:secret@rabbit:5672/%2f".into(),
            ca: None,
            context_public_keys: vec!["new".into(), "old".into()],
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_not_made_this_hosts() {
        let check = |text: &str| check_before(Path::new("f"), &table(text), "node-1");
        check("").unwrap();
        check("[host]\nname = \"node-1\"\nnetns = \"x\"\n[compute]\ndriver = \"simulated\"")
            .unwrap();
        check("[bus]\nurl = \"amqp://host.node-1:old@rabbit\"").unwrap();
        for bad in [
            "[host]\nname = \"node-2\"",
            "[compute]\nhost = \"node-2\"",
            "[bus]\nurl = \"amqp://host.node-2:old@rabbit\"",
            "[bus]\nurl = \"amqp://guest:guest@rabbit\"",
            "[bus]\nurl = { file = \"/etc/yakumo/amqp.url\" }",
            "[bus]\ncontext_key = \"k\"",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_file_says_besides_stays() {
        let before = table(
            "data_dir = \"/srv\"\n[bus]\ncontext_public_keys = [\"old\"]\n[compute]\ndriver = \"simulated\"\n",
        );
        let text = merged(Path::new("f"), before, "node-1", &told()).unwrap();
        let after = table(&text);
        assert_eq!(after["data_dir"].as_str(), Some("/srv"));
        assert_eq!(after["compute"]["driver"].as_str(), Some("simulated"));
        assert_eq!(after["host"]["name"].as_str(), Some("node-1"));
        assert_eq!(after["bus"]["url"].as_str(), Some(told().url.as_str()));
        assert_eq!(
            after["bus"]["context_public_keys"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("yakumo.toml");
        let with_ca = WelcomedBus {
            ca: Some("PEM".into()),
            ..told()
        };
        let text = merged(&file, Table::new(), "node-1", &with_ca).unwrap();
        let ca = folder.path().join("broker-ca.pem");
        assert_eq!(table(&text)["bus"]["ca_file"].as_str(), ca.to_str());
        assert_eq!(std::fs::read_to_string(ca).unwrap(), "PEM");
        let foreign = table("[bus]\ncontext_public_keys = [\"another\"]\n");
        assert!(merged(Path::new("f"), foreign, "node-1", &told()).is_err());
    }

    #[test]
    fn the_sentence_of_a_refusal_is_shown() {
        let body = r#"{"conflictingRequest": {"code": 409, "message": "It was used."}}"#;
        assert_eq!(complaint(StatusCode::CONFLICT, body), "It was used. (409)");
        assert_eq!(
            complaint(StatusCode::BAD_GATEWAY, "<html>"),
            "502 Bad Gateway"
        );
    }
}
