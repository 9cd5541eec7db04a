//! How a machine becomes a host: with a token that an operator made for its
//! name, once.
//!
//! The token is spent in the transaction that notes which host used it; making
//! the broker user comes after that and may fail, or nobody may hear of it. So
//! the same token is taken again from the same host (by the host's own id),
//! until that host has registered or the token has run out. Each time the host
//! gets a new password, and the one before is worth nothing.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use yakumo_contracts::api::AddHostTokenRequest;
use yakumo_db::DbError;
use yakumo_rpc::{Management, is_host_name};
use yakumo_service::Secret;
use yakumo_types::{Fault, HostId};

use super::App;
use crate::config::JoinConfig;
use crate::store::host_tokens::{self as store, HostToken};
use crate::store::hosts;

/// Requests to join that are handled at the same time; more are sent away.
const AT_A_TIME: usize = 8;

/// The longest that a token may live.
const MAX_LIFETIME: Duration = Duration::from_secs(7 * 86_400);

/// What letting hosts in needs; nothing of it where there is no broker.
pub struct Joining {
    parts: Option<(Management, Arc<JoinConfig>)>,
    room: Semaphore,
}

impl Joining {
    /// By the settings.
    ///
    /// # Errors
    /// Settings of the broker's management that make no sense.
    pub fn new(config: Option<JoinConfig>) -> anyhow::Result<Self> {
        let parts = config
            .map(|config| {
                let management = Management::new(config.management.clone())?;
                anyhow::Ok((management, Arc::new(config)))
            })
            .transpose()?;
        Ok(Self {
            parts,
            room: Semaphore::new(AT_A_TIME),
        })
    }

    /// The broker's management, if there is one.
    pub(crate) fn management(&self) -> Option<&Management> {
        self.parts.as_ref().map(|(management, _)| management)
    }

    fn parts(&self) -> Result<&(Management, Arc<JoinConfig>), Fault> {
        self.parts.as_ref().ok_or_else(|| {
            Fault::conflict(
                "Hosts cannot join this cloud: it runs in one process without a broker, or \
                 [bus.management] is not configured for its api service.",
            )
        })
    }
}

/// What a host is told that may join.
pub struct Welcome {
    pub host: String,
    /// With the host's own user and password.
    pub broker_url: Secret,
    /// Certificates (PEM) that the broker's is checked against.
    pub broker_ca: Option<String>,
    pub context_public_keys: Vec<String>,
}

/// A token in its two parts.
struct Token {
    id: String,
    secret_hash: String,
}

/// Reads `ykj-<id>-<secret>`, of which both are hexadecimal.
fn read_token(text: &str) -> Option<Token> {
    let (id, secret) = text.strip_prefix("ykj-")?.split_once('-')?;
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if id.len() != 16 || secret.len() != 64 || !is_hex(id) || !is_hex(secret) {
        return None;
    }
    Some(Token {
        id: id.to_ascii_lowercase(),
        secret_hash: hex::encode(Sha256::digest(secret.to_ascii_lowercase())),
    })
}

fn wrong_token() -> Fault {
    Fault::unauthorized("The token is not one of this cloud's.")
}

impl App {
    /// Lets the holder of a token join as a host for some time.
    pub async fn host_token_add(&self, request: AddHostTokenRequest) -> Result<(), Fault> {
        self.joining.parts()?;
        let host = host_name(&request.host)?;
        let lifetime = Duration::from_secs(request.lifetime_seconds);
        if lifetime.is_zero() || lifetime > MAX_LIFETIME {
            return Err(Fault::invalid(
                "A token must live for at least a second and at most a week.",
            ));
        }
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if !is_hex(&request.token_id, 16) || !is_hex(&request.secret_hash, 64) {
            return Err(Fault::invalid("The token is malformed."));
        }
        let (id, secret_hash) = (request.token_id, request.secret_hash);
        let lifetime = i64::try_from(lifetime.as_micros()).unwrap_or(i64::MAX);
        self.db
            .write(move |txn| {
                let (id, secret_hash, host) = (id.clone(), secret_hash.clone(), host.clone());
                Box::pin(async move {
                    let now = yakumo_db::database_now(txn).await?.as_micros();
                    let row = HostToken {
                        id,
                        secret_hash,
                        host,
                        created_at: now,
                        expires_at: now.saturating_add(lifetime),
                        used_at: 0,
                        used_by: String::new(),
                        confirmed_at: 0,
                    };
                    store::host_token_insert(txn, row).await
                })
            })
            .await?;
        Ok(())
    }

    /// Lets a host in that shows a token: makes its broker user, and says what
    /// it needs to know.
    ///
    /// # Errors
    /// `Unauthorized` for what is no token; `Forbidden` for one that has run out
    /// or is another host's; `Conflict` for one that was used, for a name that
    /// another host has, and where hosts cannot join.
    pub async fn host_join(
        &self,
        token: &str,
        host: &str,
        host_id: HostId,
    ) -> Result<Welcome, Fault> {
        let (management, config) = self.joining.parts()?;
        let _room = self.joining.room.try_acquire().map_err(|_| Fault {
            retry_after: Some(1),
            ..Fault::new(
                yakumo_types::FaultCode::TooManyRequests,
                "Too many hosts are joining at this moment. Try again.",
            )
        })?;
        let host = host_name(host)?;
        let spent = match read_token(token) {
            Some(token) => self.host_token_spend(token, &host, host_id).await,
            None => Err(wrong_token()),
        };
        if let Err(fault) = spent {
            metrics::counter!("yakumo_host_joins_refused_total").increment(1);
            tracing::warn!(host, %host_id, %fault, "a host was not let in");
            return Err(fault);
        }
        let password = self.password();
        management
            .put_host(&host, &password)
            .await
            .map_err(|error| {
                tracing::error!(host, %error, "the broker user of a host could not be made");
                Fault::unavailable(
                    "The broker's management could not make the host's user. The token stays good: \
                 try again.",
                )
            })?;
        let mut url: url::Url = config
            .broker_url
            .parse()
            .map_err(|_| Fault::internal("The broker's address for hosts makes no sense."))?;
        let written = url
            .set_username(&format!("host.{host}"))
            .and_then(|()| url.set_password(Some(&password)));
        if written.is_err() {
            return Err(Fault::internal(
                "The broker's address for hosts makes no sense.",
            ));
        }
        tracing::info!(host, %host_id, "a host was let in");
        Ok(Welcome {
            host,
            broker_url: Secret::new(url.to_string()),
            broker_ca: config.broker_ca.clone(),
            context_public_keys: config.context_public_keys.clone(),
        })
    }

    async fn host_token_spend(
        &self,
        token: Token,
        host: &str,
        host_id: HostId,
    ) -> Result<(), Fault> {
        let (token, host) = (Arc::new(token), host.to_owned());
        self.db
            .write(move |txn| {
                let (token, host) = (Arc::clone(&token), host.clone());
                Box::pin(async move { spend(txn, &token, &host, &host_id.to_string()).await })
            })
            .await
            .map_err(|error| match error {
                // Another host was faster by a moment.
                DbError::Stale => used(),
                error => error.into(),
            })
    }

    /// 256 bits, in hexadecimal digits: nothing of it has a meaning in a URL.
    fn password(&self) -> String {
        let mut bytes = [0; 32];
        self.env.rng.fill(&mut bytes);
        hex::encode(bytes)
    }
}

fn used() -> Fault {
    Fault::conflict("The token was used already. An operator can make another one.")
}

fn host_name(name: &str) -> Result<String, Fault> {
    if is_host_name(name) {
        return Ok(name.to_owned());
    }
    Err(Fault::invalid(
        "The host's name must be 1 to 200 letters, digits, dots, dashes and underscores.",
    ))
}

async fn spend(
    txn: &crate::store::DatabaseTransaction,
    token: &Token,
    host: &str,
    host_id: &str,
) -> Result<(), DbError> {
    let now = yakumo_db::database_now(txn).await?.as_micros();
    let row = store::host_token_lock(txn, &token.id).await?;
    // Compared also where there is nothing to compare with: how long an answer
    // takes must not tell whether the public part is right.
    let nothing = "0".repeat(64);
    let kept = row.as_ref().map_or(&nothing, |row| &row.secret_hash);
    let is_right = bool::from(kept.as_bytes().ct_eq(token.secret_hash.as_bytes()));
    let Some(row) = row.filter(|_| is_right) else {
        return Err(wrong_token().into());
    };
    if row.expires_at <= now {
        return Err(
            Fault::forbidden("The token has run out. An operator can make another one.").into(),
        );
    }
    if row.host != host {
        return Err(Fault::forbidden(format!(
            "The token is for the host {}, and not for {host}.",
            row.host
        ))
        .into());
    }
    if row.confirmed_at != 0 || (row.used_at != 0 && row.used_by != host_id) {
        return Err(used().into());
    }
    let known = hosts::host_fetch_in(txn, host).await?;
    if let Some(known) = known.filter(|known| known.host_uuid != host_id) {
        return Err(Fault::conflict(format!(
            "Another host is known as {host}, with the id {}. It must be removed before this \
             one, {host_id}, can take its place.",
            known.host_uuid
        ))
        .into());
    }
    if row.used_at == 0 {
        store::host_token_use(txn, &row.id, host_id, now).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_made_and_nothing_else_is() {
        let (id, secret) = ("0123456789abcdef", "ab".repeat(32));
        let token = read_token(&format!("ykj-{id}-{secret}")).unwrap();
        assert_eq!(token.id, id);
        assert_eq!(token.secret_hash, hex::encode(Sha256::digest(&secret)));
        let short = &secret[2..];
        for bad in [
            String::new(),
            "ykj-".into(),
            secret.clone(),
            format!("{id}-{secret}"),
            format!("ykj-{id}{secret}"),
            format!("ykj-{id}-{short}"),
            format!("ykj-{id}-{short}zz"),
            format!("ykj-{id}-{secret}0"),
        ] {
            assert!(read_token(&bad).is_none(), "{bad}");
        }
    }
}
