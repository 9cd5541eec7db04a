//! Commands for operators.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use comfy_table::Table;
use serde_json::Value;
use yakumo_auth::SigningKey;
use yakumo_rpc::{Bus, Principal, broker_user_for_host};
use yakumo_service::{Process, system_env};

use crate::config::Config;
use crate::context::start_bus;
use crate::run;

/// How long a command may take that asks over the bus.
const BUS_BOUND: Duration = Duration::from_secs(60);

/// Prints what was asked for.
#[allow(clippy::print_stdout)]
pub fn say(text: impl std::fmt::Display) {
    println!("{text}");
}

/// For commands that ask somebody.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
}

/// Does something over the cloud's bus, as a control service. `in_one_process`
/// says what it means that there is no broker.
pub fn over_bus<T>(
    config: &Config,
    in_one_process: &str,
    work: impl AsyncFnOnce(&Bus) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    if config.bus.url.is_empty() {
        bail!("bus.url is empty: {in_one_process}");
    }
    run::choose_tls_library();
    runtime()?.block_on(async {
        let process = Process::new("command", system_env());
        let bus = start_bus(&process, config).await?;
        if let Principal::Host(name) = bus.principal() {
            bail!(
                "{name}'s broker user sees nothing but its own queue: use a control service's bus.url"
            );
        }
        // A blocked broker answers nothing.
        let result = tokio::time::timeout(BUS_BOUND, work(&bus))
            .await
            .map_err(anyhow::Error::from)
            .flatten()
            .context("asking over the bus");
        bus.close().await;
        result
    })
}

/// `yakumo config show`
pub fn show_config(config: &Config) -> anyhow::Result<ExitCode> {
    say(toml::to_string_pretty(config)?);
    Ok(ExitCode::SUCCESS)
}

/// `yakumo db migrate`
pub fn migrate(config: &Config) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(run::migrate(config))?;
    say("All schemas are up to date.");
    Ok(ExitCode::SUCCESS)
}

/// `yakumo bus-keys`
pub fn bus_keys() -> anyhow::Result<ExitCode> {
    let key = SigningKey::generate(&system_env())?;
    say("# For control services:");
    say(format_args!("context_key = \"{}\"", key.to_text().as_str()));
    say("# For hosts:");
    say(format_args!(
        "context_public_keys = [\"{}\"]",
        key.verifying_key().to_text()
    ));
    Ok(ExitCode::SUCCESS)
}

/// `yakumo broker-user`
pub fn broker_user(host: &str) -> anyhow::Result<ExitCode> {
    let user = broker_user_for_host(host, "/")?;
    for command in std::iter::once(&user.add).chain(&user.permissions) {
        let words: Vec<String> = command.iter().map(|word| for_shell(word)).collect();
        say(format_args!("rabbitmqctl {}", words.join(" ")));
    }
    Ok(ExitCode::SUCCESS)
}

/// A word as a shell takes it for one.
fn for_shell(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./:@%+=,-".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// `yakumo status`: 0 only if every process answers and should get requests,
/// which one that is degraded still should.
pub fn status(config: &Config, addresses: Vec<String>) -> anyhow::Result<ExitCode> {
    let addresses = if addresses.is_empty() {
        vec![config.ops.listen.to_string()]
    } else {
        addresses
    };
    let mut table = Table::new();
    table.set_header(["Process", "Component", "State", "Detail"]);
    let healthy = runtime()?.block_on(async {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(5))
            .build()?;
        let mut healthy = true;
        for address in &addresses {
            match health(&client, address).await {
                Ok(report) => {
                    let status = report["status"].as_str().unwrap_or("unknown");
                    healthy &= matches!(status, "up" | "degraded");
                    table.add_row([address.as_str(), "(the process)", status, ""]);
                    for (name, component) in report["components"].as_object().into_iter().flatten()
                    {
                        let text =
                            |key: &str| component[key].as_str().unwrap_or_default().to_owned();
                        table.add_row([
                            address.clone(),
                            name.clone(),
                            text("status"),
                            text("detail"),
                        ]);
                    }
                }
                Err(error) => {
                    healthy = false;
                    table.add_row([
                        address.clone(),
                        "–".into(),
                        "unreachable".into(),
                        format!("{error:#}"),
                    ]);
                }
            }
        }
        anyhow::Ok(healthy)
    })?;
    say(table);
    Ok(if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn health(client: &reqwest::Client, address: &str) -> anyhow::Result<Value> {
    let url = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    Ok(client
        .get(format!("{url}/health"))
        .send()
        .await?
        .json()
        .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_given_what_is_meant() {
        assert_eq!(for_shell("add_user"), "add_user");
        assert_eq!(for_shell("/"), "/");
        assert_eq!(for_shell("^(a|b)$"), "'^(a|b)$'");
        assert_eq!(for_shell(""), "''");
        assert_eq!(for_shell("it's"), r"'it'\''s'");
    }
}
