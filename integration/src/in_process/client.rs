//! A client as plain as can be: it speaks REST and knows nothing of the
//! services behind it.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use yakumo_service::system_env;

/// Where the APIs are.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// With `/v3`.
    pub identity: String,
    /// With `/v2.1`.
    pub compute: String,
    /// With `/v2.0`.
    pub network: String,
    /// With `/v3`.
    pub volume: String,
    /// With `/v2`.
    pub image: String,
}

/// A caller with a token.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Where the APIs are.
    pub endpoints: Endpoints,
    /// The token.
    pub token: String,
    /// Its project.
    pub project: String,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, if it was JSON.
    pub body: Value,
    /// The body.
    pub text: String,
}

impl Answer {
    /// The body of an answer that has this status.
    pub fn expect(self, status: u16) -> anyhow::Result<Value> {
        ensure!(
            self.status == status,
            "{} and not {status}: {}",
            self.status,
            self.text
        );
        Ok(self.body)
    }
}

fn text(value: &Value) -> anyhow::Result<String> {
    Ok(value.as_str().context("text was expected")?.to_owned())
}

impl Client {
    /// Logs in by name and password, within the default domain.
    pub async fn log_in(
        endpoints: Endpoints,
        user: &str,
        password: &str,
        project: &str,
    ) -> anyhow::Result<Self> {
        let http = reqwest::Client::new();
        let body = json!({ "auth": {
            "identity": { "methods": ["password"], "password": { "user": {
                "name": user, "password": password, "domain": { "name": "Default" },
            }}},
            "scope": { "project": { "name": project, "domain": { "name": "Default" } } },
        }});
        let response = http
            .post(format!("{}/auth/tokens", endpoints.identity))
            .json(&body)
            .send()
            .await?;
        let token = response
            .headers()
            .get("x-subject-token")
            .and_then(|token| token.to_str().ok())
            .map(ToOwned::to_owned);
        let status = response.status();
        let body: Value = response.json().await?;
        let token = token.with_context(|| format!("{status}: {body}"))?;
        Ok(Self {
            http,
            endpoints,
            token,
            project: text(&body["token"]["project"]["id"])?,
        })
    }

    /// A new project with a member in it, logged in. For administrators.
    pub async fn new_project(&self, name: &str) -> anyhow::Result<Self> {
        let identity = &self.endpoints.identity;
        let project = self
            .post(
                &format!("{identity}/projects"),
                json!({ "project": { "name": name } }),
            )
            .await?
            .expect(201)?;
        let user = self
            .post(
                &format!("{identity}/users"),
                json!({ "user": { "name": name, "password": "a-long-password" } }),
            )
            .await?
            .expect(201)?;
        let roles = self
            .get(&format!("{identity}/roles?name=member"))
            .await?
            .expect(200)?;
        let grant = format!(
            "{identity}/projects/{}/users/{}/roles/{}",
            text(&project["project"]["id"])?,
            text(&user["user"]["id"])?,
            text(&roles["roles"][0]["id"])?
        );
        self.request(Method::PUT, &grant, None).await?.expect(204)?;
        Self::log_in(self.endpoints.clone(), name, "a-long-password", name).await
    }

    /// Any request with this client's token.
    pub async fn request(
        &self,
        method: Method,
        url: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Answer> {
        let mut request = self
            .http
            .request(method, url)
            .header("X-Auth-Token", &self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        Ok(Answer {
            status,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        })
    }

    /// GET.
    pub async fn get(&self, url: &str) -> anyhow::Result<Answer> {
        self.request(Method::GET, url, None).await
    }

    /// POST.
    pub async fn post(&self, url: &str, body: Value) -> anyhow::Result<Answer> {
        self.request(Method::POST, url, Some(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, url: &str) -> anyhow::Result<Answer> {
        self.request(Method::DELETE, url, None).await
    }

    /// A URL of the compute API.
    pub fn compute(&self, path: &str) -> String {
        format!("{}{path}", self.endpoints.compute)
    }

    /// A URL of the network API.
    pub fn network(&self, path: &str) -> String {
        format!("{}{path}", self.endpoints.network)
    }

    /// A URL of the volume API.
    pub fn volume(&self, path: &str) -> String {
        format!("{}{path}", self.endpoints.volume)
    }

    /// Makes a flavor and returns its id.
    pub async fn make_flavor(
        &self,
        name: &str,
        vcpus: u32,
        memory_mib: u64,
        disk_gib: u64,
    ) -> anyhow::Result<String> {
        let body = json!({ "flavor": {
            "name": name, "vcpus": vcpus, "ram": memory_mib, "disk": disk_gib,
        }});
        let made = self
            .post(&self.compute("/flavors"), body)
            .await?
            .expect(200)?;
        text(&made["flavor"]["id"])
    }

    /// Uploads a raw public image and returns its id.
    pub async fn make_image(&self, name: &str, bytes: &[u8]) -> anyhow::Result<String> {
        let image = &self.endpoints.image;
        let body = json!({
            "name": name, "disk_format": "raw", "container_format": "bare", "visibility": "public",
        });
        let made = self
            .post(&format!("{image}/images"), body)
            .await?
            .expect(201)?;
        let id = text(&made["id"])?;
        let uploaded = self
            .http
            .put(format!("{image}/images/{id}/file"))
            .header("X-Auth-Token", &self.token)
            .header("Content-Type", "application/octet-stream")
            .body(bytes.to_vec())
            .send()
            .await?;
        ensure!(uploaded.status() == 204, "upload: {}", uploaded.status());
        Ok(id)
    }

    /// Makes a shared network with a subnet and returns its id.
    pub async fn make_network(&self, name: &str, cidr: &str) -> anyhow::Result<String> {
        let body = json!({ "network": { "name": name, "shared": true } });
        let made = self
            .post(&self.network("/networks"), body)
            .await?
            .expect(201)?;
        let id = text(&made["network"]["id"])?;
        let body = json!({ "subnet": { "network_id": id, "cidr": cidr, "ip_version": 4 } });
        self.post(&self.network("/subnets"), body)
            .await?
            .expect(201)?;
        Ok(id)
    }

    /// Asks for a server and returns its id.
    pub async fn make_server(
        &self,
        name: &str,
        image: &str,
        flavor: &str,
        network: &str,
    ) -> anyhow::Result<String> {
        let body = json!({ "server": {
            "name": name, "imageRef": image, "flavorRef": flavor,
            "networks": [{ "uuid": network }],
        }});
        let made = self
            .post(&self.compute("/servers"), body)
            .await?
            .expect(202)?;
        text(&made["server"]["id"])
    }

    /// A server's document.
    pub async fn show_server(&self, id: &str) -> anyhow::Result<Value> {
        let mut body = self
            .get(&self.compute(&format!("/servers/{id}")))
            .await?
            .expect(200)?;
        Ok(body["server"].take())
    }

    /// Waits until a server has a status, and nothing is being done to it.
    pub async fn wait_for_status(&self, id: &str, status: &str) -> anyhow::Result<Value> {
        let mut last = Value::Null;
        for _ in 0..3000 {
            last = self.show_server(id).await?;
            if last["status"] == status && last["OS-EXT-STS:task_state"].is_null() {
                return Ok(last);
            }
            if last["status"] == "ERROR" && status != "ERROR" {
                bail!("the server went into error: {last:#}");
            }
            pause().await;
        }
        bail!("never {status}: {last:#}");
    }

    /// Deletes a server and waits until it is gone.
    pub async fn remove_server(&self, id: &str) -> anyhow::Result<()> {
        let url = self.compute(&format!("/servers/{id}"));
        self.delete(&url).await?.expect(204)?;
        for _ in 0..3000 {
            if self.get(&url).await?.status == 404 {
                return Ok(());
            }
            pause().await;
        }
        bail!("never gone: {:#}", self.show_server(id).await?);
    }
}

/// A short pause between two looks.
async fn pause() {
    system_env().clock.sleep(Duration::from_millis(10)).await;
}
