//! A client as plain as can be: it speaks REST and knows nothing of what is
//! behind it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::config::Ports;
use crate::wait::{self, Look};

/// The APIs of a cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Identity,
    Image,
    ObjectStore,
    Compute,
    Network,
    Volume,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    /// The body as JSON; null if it is none.
    pub body: Value,
    pub bytes: Vec<u8>,
    what: String,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The body of an answer that is no refusal.
    pub fn ok(self) -> Result<Value> {
        ensure!(
            (200..300).contains(&self.status),
            "{}: {} {}",
            self.what,
            self.status,
            self.text()
        );
        Ok(self.body)
    }

    /// The answer, if it has this status.
    pub fn with_status(self, status: u16) -> Result<Self> {
        ensure!(
            self.status == status,
            "{}: {} and not {status}: {}",
            self.what,
            self.status,
            self.text()
        );
        Ok(self)
    }
}

/// The text at a JSON pointer.
pub fn text(value: &Value, pointer: &str) -> Result<String> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    Ok(found
        .with_context(|| format!("no text at {pointer} in {value}"))?
        .to_owned())
}

/// The list under a key.
pub fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key]
        .as_array()
        .with_context(|| format!("no list {key} in {value}"))
}

/// Somebody who asks.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    ports: Ports,
    pub token: Option<String>,
    /// Empty without a project.
    pub project_id: String,
}

impl Client {
    /// Nobody in particular.
    pub fn anonymous(ports: &Ports) -> Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            ports: ports.clone(),
            token: None,
            project_id: String::new(),
        })
    }

    /// Somebody of the default domain, in a project of it or in none.
    pub async fn log_in(&self, user: &str, password: &str, project: Option<&str>) -> Result<Self> {
        let domain = json!({"id": "default"});
        let mut auth = json!({"identity": {"methods": ["password"], "password": {"user": {
            "name": user, "password": password, "domain": domain,
        }}}});
        if let Some(project) = project {
            auth["scope"] = json!({"project": {"name": project, "domain": domain}});
        }
        let anonymous = Self {
            token: None,
            project_id: String::new(),
            ..self.clone()
        };
        let answer = anonymous
            .post(Api::Identity, "/auth/tokens", &json!({"auth": auth}))
            .await?
            .with_status(201)?;
        let token = answer
            .headers
            .get("x-subject-token")
            .context("no token in the answer")?
            .to_str()?
            .to_owned();
        let project_id = answer.body["token"]["project"]["id"].as_str();
        Ok(Self {
            token: Some(token),
            project_id: project_id.unwrap_or_default().to_owned(),
            ..anonymous
        })
    }

    /// The same person at another instance of the API service, who gives up on
    /// an answer after `patience`.
    pub fn at(&self, ports: &Ports, patience: Duration) -> Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(patience)
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            ports: ports.clone(),
            ..self.clone()
        })
    }

    /// The same person, each of whose requests comes over a connection of its own.
    pub fn without_pool(&self) -> Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(120))
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            ..self.clone()
        })
    }

    /// Where something is.
    pub fn url(&self, api: Api, path: &str) -> String {
        let (port, base) = match api {
            Api::Identity => (self.ports.identity, "/v3".to_owned()),
            Api::Image => (self.ports.image, "/v2".to_owned()),
            Api::ObjectStore => (
                self.ports.object_store,
                format!("/v1/AUTH_{}", self.project_id),
            ),
            Api::Compute => (self.ports.compute, "/v2.1".to_owned()),
            Api::Network => (self.ports.network, "/v2.0".to_owned()),
            Api::Volume => (self.ports.volume, format!("/v3/{}", self.project_id)),
        };
        format!("http://127.0.0.1:{port}{base}{path}")
    }

    /// Any request.
    pub async fn send(
        &self,
        method: Method,
        api: Api,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        let mut request = self.http.request(method.clone(), self.url(api, path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        self.finish(request, format!("{method} {api:?} {path}"))
            .await
    }

    async fn finish(&self, mut request: reqwest::RequestBuilder, what: String) -> Result<Answer> {
        if let Some(token) = &self.token {
            request = request.header("X-Auth-Token", token);
        }
        let response = request.send().await.with_context(|| what.clone())?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let bytes = response.bytes().await?.to_vec();
        Ok(Answer {
            status,
            headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            bytes,
            what,
        })
    }

    /// GET.
    pub async fn get(&self, api: Api, path: &str) -> Result<Answer> {
        self.send(Method::GET, api, path, &[], None).await
    }

    /// POST.
    pub async fn post(&self, api: Api, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::POST, api, path, &[], Some(body)).await
    }

    /// PUT.
    pub async fn put(&self, api: Api, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::PUT, api, path, &[], Some(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, api: Api, path: &str) -> Result<Answer> {
        self.send(Method::DELETE, api, path, &[], None).await
    }

    /// PUT of bytes.
    pub async fn upload(&self, api: Api, path: &str, bytes: Vec<u8>) -> Result<Answer> {
        let request = self
            .http
            .put(self.url(api, path))
            .header("Content-Type", "application/octet-stream")
            .body(bytes);
        self.finish(request, format!("PUT {api:?} {path}")).await
    }

    /// A server's document.
    pub async fn server(&self, id: &str) -> Result<Value> {
        let mut body = self
            .get(Api::Compute, &format!("/servers/{id}"))
            .await?
            .ok()?;
        Ok(body["server"].take())
    }

    /// Waits until a server has a status and nothing is being done to it.
    pub async fn server_becomes(&self, id: &str, status: &str, bound: Duration) -> Result<Value> {
        wait::until(&format!("{status}, the server {id}"), bound, || async {
            let server = self.server(id).await?;
            let rests = server["OS-EXT-STS:task_state"].is_null();
            if server["status"] == status && rests {
                return Ok(Look::Yes(server));
            }
            if server["status"] == "ERROR" && rests {
                bail!("the server went into error: {}", server["fault"]);
            }
            Ok(Look::NotYet(server.to_string()))
        })
        .await
    }

    /// Waits until a volume has a status.
    pub async fn volume_becomes(&self, id: &str, status: &str, bound: Duration) -> Result<Value> {
        wait::until(&format!("{status}, the volume {id}"), bound, || async {
            let mut body = self
                .get(Api::Volume, &format!("/volumes/{id}"))
                .await?
                .ok()?;
            let volume = body["volume"].take();
            if volume["status"] == status {
                return Ok(Look::Yes(volume));
            }
            if volume["status"] == "error" {
                bail!("the volume went into error: {volume}");
            }
            Ok(Look::NotYet(volume.to_string()))
        })
        .await
    }

    /// Waits until something is not there any more.
    pub async fn gone(&self, api: Api, path: &str, bound: Duration) -> Result<()> {
        wait::until(&format!("gone, {path}"), bound, || async {
            let answer = self.get(api, path).await?;
            Ok(match answer.status {
                404 => Look::Yes(()),
                _ => Look::NotYet(answer.text()),
            })
        })
        .await
    }
}
