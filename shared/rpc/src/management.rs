//! RabbitMQ's management over HTTP: making and removing the broker users of
//! hosts, with the rights that [`broker_user_for_host`] says and no others.
//! Every request may be repeated.

use std::time::Duration;

use lapin::uri::AMQPUri;
use reqwest::{Certificate, Client, Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use crate::broker_users::{broker_user_for_host, user_of};
use crate::error::RpcError;

/// How long the broker may take for one request.
const BOUND: Duration = Duration::from_secs(10);

/// Where the management is, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct ManagementConfig {
    /// `http://host:15672` or `https://…`, with a prefix of the path if there is
    /// one.
    pub url: String,
    /// A user with the tag `administrator`.
    pub user: String,
    #[allow(missing_docs)]
    pub password: String,
    /// The virtual host of the bus.
    pub vhost: String,
    /// Certificates (PEM) that the broker's is checked against; the system's if
    /// there are none.
    pub ca: Option<String>,
}

/// It holds a password.
impl std::fmt::Debug for ManagementConfig {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ManagementConfig")
            .field("url", &self.url)
            .field("user", &self.user)
            .field("vhost", &self.vhost)
            .finish_non_exhaustive()
    }
}

/// A client of the management.
#[derive(Clone)]
pub struct Management {
    client: Client,
    base: Url,
    config: ManagementConfig,
}

impl Management {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// `Refused` with the reason if the settings make no sense.
    pub fn new(config: ManagementConfig) -> Result<Self, RpcError> {
        let refused = |what: &str| RpcError::Refused(format!("the broker's management: {what}"));
        let mut base: Url = config
            .url
            .parse()
            .map_err(|_| refused("its URL makes no sense"))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(refused("its URL must begin with http:// or https://"));
        }
        base.set_query(None);
        base.set_fragment(None);
        let mut client = Client::builder().timeout(BOUND).no_proxy();
        if let Some(ca) = &config.ca {
            let certificates = Certificate::from_pem_bundle(ca.as_bytes())
                .ok()
                .filter(|certificates| !certificates.is_empty())
                .ok_or_else(|| refused("its certificates cannot be read"))?;
            client = client.tls_certs_only(certificates);
        }
        let client = client
            .build()
            .map_err(|error| refused(&error.to_string()))?;
        Ok(Self {
            client,
            base,
            config,
        })
    }

    /// Makes the user of a host with this password, or gives one that exists
    /// this password and its rights anew.
    pub async fn put_host(&self, name: &str, password: &str) -> Result<(), RpcError> {
        let vhost = self.config.vhost.as_str();
        let host = broker_user_for_host(name, vhost)?;
        let user = json!({ "password": password, "tags": "" });
        self.put(&["users", &host.user], &user).await?;
        let rights = json!({
            "configure": host.rights.configure,
            "write": host.rights.write,
            "read": host.rights.read,
        });
        self.put(&["permissions", vhost, &host.user], &rights)
            .await?;
        for topic in &host.rights.topics {
            let rights = json!({
                "exchange": topic.exchange,
                "write": topic.write,
                "read": topic.read,
            });
            self.put(&["topic-permissions", vhost, &host.user], &rights)
                .await?;
        }
        Ok(())
    }

    /// Removes the user of a host, which ends its connections, and its queue.
    pub async fn remove_host(&self, name: &str) -> Result<(), RpcError> {
        let user = user_of(name)?;
        self.delete(&["users", &user]).await?;
        // The queue is called as the user is.
        self.delete(&["queues", &self.config.vhost, &user]).await
    }

    async fn put(&self, path: &[&str], body: &Value) -> Result<(), RpcError> {
        let status = self.ask(Method::PUT, path, Some(body)).await?;
        if status.is_success() {
            return Ok(());
        }
        Err(refusal(path, status))
    }

    async fn delete(&self, path: &[&str]) -> Result<(), RpcError> {
        let status = self.ask(Method::DELETE, path, None).await?;
        if status.is_success() || status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(refusal(path, status))
    }

    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
    ) -> Result<StatusCode, RpcError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        let mut request = self
            .client
            .request(method, url)
            .basic_auth(&self.config.user, Some(&self.config.password));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| {
            // Without its URL: that may hold a password.
            let error = error.without_url();
            tracing::warn!(%error, "the broker's management cannot be reached");
            RpcError::BrokerUnavailable
        })?;
        Ok(answer.status())
    }
}

/// A broker's URL in two parts: the address without a user, and the virtual host.
///
/// # Errors
/// `Refused` if it makes no sense.
pub fn broker_address(url: &str) -> Result<(String, String), RpcError> {
    let refused = || RpcError::Refused("the broker's URL makes no sense".into());
    let uri: AMQPUri = url.parse().map_err(|_| refused())?;
    let mut address: Url = url.parse().map_err(|_| refused())?;
    address
        .set_username("")
        .and_then(|()| address.set_password(None))
        .map_err(|()| refused())?;
    Ok((address.to_string(), uri.vhost))
}

fn refusal(path: &[&str], status: StatusCode) -> RpcError {
    let what = path.first().copied().unwrap_or_default();
    RpcError::Refused(format!(
        "the broker's management answered {status} ({what})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> ManagementConfig {
        ManagementConfig {
            url: url.into(),
            user: "admin".into(),
            password: "s3cret".into(),
            vhost: "/".into(),
            ca: None,
        }
    }

    #[test]
    fn a_url_that_makes_no_sense_is_refused_before_it_is_used() {
        for bad in ["", "rabbit:15672", "amqp://rabbit", "http://"] {
            assert!(Management::new(config(bad)).is_err(), "{bad}");
        }
        Management::new(config("http://rabbit:15672/rabbit/")).unwrap();
        let mut odd = config("https://rabbit");
        odd.ca = Some("-----BEGIN CERTIFICATE-----\n!".into());
        assert!(Management::new(odd).is_err());
    }

    #[test]
    fn a_brokers_address_has_no_user() {
        assert_eq!(
            broker_address("amqps://control:s3cret@rabbit:5671/%2f").unwrap(),
            ("amqps://rabbit:5671/%2f".to_owned(), "/".to_owned())
        );
        assert_eq!(
            broker_address("amqp://rabbit/cloud").unwrap(),
            ("amqp://rabbit/cloud".to_owned(), "cloud".to_owned())
        );
        assert!(broker_address("rabbit").is_err());
    }

    #[test]
    fn the_password_is_shown_by_nothing() {
        assert!(!format!("{:?}", config("http://rabbit")).contains("s3cret"));
    }
}
