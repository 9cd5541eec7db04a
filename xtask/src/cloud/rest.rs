//! A small client of the cloud's own APIs, for what `up` makes in a fresh cloud.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::{Response, StatusCode};

use super::config::ports;
use super::settings::Settings;

/// Somebody who is logged in.
pub struct Client {
    agent: Agent,
    settings: Settings,
    token: String,
    /// The project of the token.
    pub project_id: String,
    /// Whose token it is.
    pub user_id: String,
}

/// One of the APIs, by its usual port and the path that everything begins with.
#[derive(Debug, Clone, Copy)]
pub struct Api(u16, &'static str);

#[allow(missing_docs)]
impl Api {
    pub const IDENTITY: Self = Self(ports::IDENTITY, "/v3");
    pub const COMPUTE: Self = Self(ports::COMPUTE, "/v2.1");
    pub const NETWORK: Self = Self(ports::NETWORK, "/v2.0");
    pub const IMAGE: Self = Self(ports::IMAGE, "/v2");
}

fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_global(Some(Duration::from_secs(120)))
        .build()
        .new_agent()
}

/// Whether a process answers at its operators' listener that it is up; what is
/// not, otherwise.
pub fn healthy(url: &str) -> Result<(), String> {
    let mut response = agent().get(url).call().map_err(|error| error.to_string())?;
    if response.status() == StatusCode::OK {
        return Ok(());
    }
    let text = response.body_mut().read_to_string().unwrap_or_default();
    let report: Value = serde_json::from_str(&text).unwrap_or_default();
    let down: Vec<String> = report["components"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, health)| health["status"] != "up")
        .map(|(name, health)| format!("{name}: {}", health["detail"].as_str().unwrap_or("down")))
        .collect();
    Err(if down.is_empty() {
        format!("it answers {}", response.status())
    } else {
        down.join("; ")
    })
}

impl Client {
    /// Logs in with a password, into a project.
    pub fn log_in(settings: &Settings, user: &str, password: &str, project: &str) -> Result<Self> {
        let agent = agent();
        let domain = json!({"name": "Default"});
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": user, "domain": domain, "password": password,
            }}},
            "scope": {"project": {"name": project, "domain": domain}},
        }});
        let url = format!("{}/v3/auth/tokens", settings.url(ports::IDENTITY));
        let response = agent
            .post(&url)
            .send_json(body)
            .with_context(|| format!("{user} cannot log in"))?;
        let token = response
            .headers()
            .get("X-Subject-Token")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let answer = read(response, &format!("logging {user} in"))?;
        Ok(Self {
            agent,
            settings: settings.clone(),
            token: token.context("identity gives no token")?,
            project_id: text(&answer["token"]["project"]["id"])?,
            user_id: text(&answer["token"]["user"]["id"])?,
        })
    }

    fn url(&self, api: Api, path: &str) -> String {
        format!("{}{}{path}", self.settings.url(api.0), api.1)
    }

    /// What is there.
    pub fn get(&self, api: Api, path: &str) -> Result<Value> {
        self.ask("GET", path, || {
            self.agent
                .get(self.url(api, path))
                .header("X-Auth-Token", &self.token)
                .call()
        })
    }

    /// Makes or does something.
    pub fn post(&self, api: Api, path: &str, body: &Value) -> Result<Value> {
        self.ask("POST", path, || {
            self.agent
                .post(self.url(api, path))
                .header("X-Auth-Token", &self.token)
                .send_json(body)
        })
    }

    /// Changes something.
    pub fn put(&self, api: Api, path: &str, body: Option<&Value>) -> Result<Value> {
        self.ask("PUT", path, || {
            let request = self
                .agent
                .put(self.url(api, path))
                .header("X-Auth-Token", &self.token);
            match body {
                Some(body) => request.send_json(body),
                None => request.send_empty(),
            }
        })
    }

    /// Removes something.
    pub fn delete(&self, api: Api, path: &str) -> Result<()> {
        self.ask("DELETE", path, || {
            self.agent
                .delete(self.url(api, path))
                .header("X-Auth-Token", &self.token)
                .call()
        })
        .map(|_| ())
    }

    /// Asks again while the answer is 503: services that have just started
    /// don't know yet whose tokens to trust. Nothing was done then.
    fn ask(
        &self,
        method: &str,
        path: &str,
        call: impl Fn() -> Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value> {
        let what = format!("{method} {path}");
        let started = Instant::now();
        loop {
            let response = call().with_context(|| what.clone())?;
            let busy = response.status() == StatusCode::SERVICE_UNAVAILABLE;
            let answer = read(response, &what);
            if !busy || started.elapsed() > Duration::from_secs(30) {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Sends a file as it is.
    pub fn upload(&self, api: Api, path: &str, file: &Path) -> Result<()> {
        let response = self
            .agent
            .put(self.url(api, path))
            .header("X-Auth-Token", &self.token)
            .header("Content-Type", "application/octet-stream")
            .send(File::open(file)?)
            .with_context(|| format!("PUT {path}"))?;
        read(response, &format!("PUT {path}")).map(|_| ())
    }

    /// What lies there, as it is; text alone.
    pub fn download(&self, api: Api, path: &str) -> Result<String> {
        let mut response = self
            .agent
            .get(self.url(api, path))
            .header("X-Auth-Token", &self.token)
            .call()
            .with_context(|| format!("GET {path}"))?;
        if !response.status().is_success() {
            bail!("GET {path} answers {}", response.status());
        }
        let text = response.body_mut().read_to_string();
        text.with_context(|| format!("GET {path}: the answer breaks off"))
    }

    /// The one in a listing with this name.
    pub fn find(&self, api: Api, path: &str, key: &str, name: &str) -> Result<Option<Value>> {
        let answer = self.get(api, path)?;
        let items = answer[key]
            .as_array()
            .with_context(|| format!("GET {path} lists no {key}"))?;
        Ok(items.iter().find(|item| item["name"] == name).cloned())
    }
}

fn read(mut response: Response<ureq::Body>, what: &str) -> Result<Value> {
    let status = response.status();
    let body = response
        .body_mut()
        .read_to_string()
        .with_context(|| format!("{what}: the answer breaks off"))?;
    if !status.is_success() {
        let start: String = body.chars().take(400).collect();
        bail!("{what} answers {status}: {start}");
    }
    Ok(if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&body).unwrap_or(Value::Null)
    })
}

/// A string in an answer.
pub fn text(value: &Value) -> Result<String> {
    value
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("a string was expected and not {value}"))
}
