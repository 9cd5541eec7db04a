//! One api service with fakes around it, and a client.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;
use yakumo_api::{Config, Started, start};
use yakumo_auth::TokenVerifier;
use yakumo_db::Backend;
use yakumo_rpc::Bus;
use yakumo_service::{Process, system_env};
use yakumo_testing::databases::{self, TestDatabase};
use yakumo_types::{ContextSeal, Env, Fault, ProjectId, RequestContext, RequestId, UserId};

use crate::fakes::{FakeHost, FakeImages, FakeNetwork, FakeScheduler, FakeVolumes};

pub struct Cloud {
    pub env: Env,
    pub bus: Bus,
    pub process: Process,
    pub started: Started,
    pub network: Arc<FakeNetwork>,
    pub images: Arc<FakeImages>,
    pub scheduler: Arc<FakeScheduler>,
    pub volumes: Arc<FakeVolumes>,
    pub hosts: Vec<Arc<FakeHost>>,
    client: reqwest::Client,
    pub database: TestDatabase,
}

/// The in-process bus carries contexts as they are.
struct NoSeal;

impl ContextSeal for NoSeal {
    fn seal(&self, _: &RequestContext) -> Result<String, Fault> {
        Err(Fault::internal("not sealed here"))
    }

    fn open(&self, _: &str) -> Result<RequestContext, Fault> {
        Err(Fault::unauthorized("not sealed here"))
    }
}

pub fn project(number: u128) -> ProjectId {
    ProjectId::from_uuid(Uuid::from_u128(number))
}

fn caller(user: u128, project_id: u128, roles: &[&str]) -> RequestContext {
    RequestContext {
        user_id: UserId::from_uuid(Uuid::from_u128(user)),
        user_name: format!("user-{user}"),
        project_id: Some(project(project_id)),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        system: false,
        ..RequestContext::internal(RequestId::from_uuid(Uuid::from_u128(1)))
    }
}

/// What the tests' tokens stand for.
pub fn tokens() -> HashMap<String, RequestContext> {
    let mut expired = caller(1, 1, &["member"]);
    expired.expires_at = Some(yakumo_types::Timestamp::from_secs(1));
    let mut unscoped = caller(1, 1, &["member"]);
    unscoped.project_id = None;
    [
        ("admin", caller(9, 9, &["admin"])),
        ("member", caller(1, 1, &["member"])),
        ("reader", caller(2, 1, &["reader"])),
        ("stranger", caller(3, 2, &["member"])),
        ("colleague", caller(5, 1, &["member"])),
        ("elsewhere", caller(1, 2, &["member"])),
        ("nobody", caller(4, 1, &[])),
        ("expired", expired),
        ("unscoped", unscoped),
    ]
    .into_iter()
    .map(|(name, context)| (name.to_owned(), context))
    .collect()
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.body
    }

    /// A refusal in the API's own shape.
    #[track_caller]
    pub fn refused(self, status: u16, name: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        assert!(
            self.headers.contains_key("x-openstack-request-id"),
            "{:?}",
            self.headers
        );
        let fault = &self.body[name];
        assert_eq!(fault["code"], status, "{}", self.text);
        fault["message"].as_str().unwrap().to_owned()
    }
}

impl Cloud {
    pub async fn start() -> Self {
        Self::with_hosts(1).await
    }

    pub async fn with_hosts(count: usize) -> Self {
        Self::with_config(count, |_| {}).await
    }

    pub async fn with_config(count: usize, change: impl FnOnce(&mut Config)) -> Self {
        Self::on(Backend::Sqlite, count, change).await
    }

    pub async fn on(backend: Backend, count: usize, change: impl FnOnce(&mut Config)) -> Self {
        let database = databases::fresh(backend).await.unwrap();
        let env = system_env();
        let bus = Bus::in_process(env.clone(), Arc::new(NoSeal));
        let process = Process::new("api", env.clone());
        let mut config = Config {
            database: database.config.clone(),
            compute_listen: "127.0.0.1:0".parse().unwrap(),
            network_listen: "127.0.0.1:0".parse().unwrap(),
            volume_listen: "127.0.0.1:0".parse().unwrap(),
            metadata_listen: "127.0.0.1:0".parse().unwrap(),
            ..Config::default()
        };
        change(&mut config);
        let network = FakeNetwork::serve(&bus).await;
        let images = FakeImages::serve(&bus).await;
        let scheduler = FakeScheduler::serve(&bus).await;
        let volumes = FakeVolumes::serve(&bus).await;
        let verifier = TokenVerifier::fixed(env.clone(), tokens());
        let started = start(process.clone(), bus.clone(), config, verifier)
            .await
            .unwrap();
        let mut hosts = Vec::new();
        for number in 1..=count {
            let host = FakeHost::serve(&bus, &env, &format!("node-{number}")).await;
            scheduler.add(&host.name);
            hosts.push(host);
        }
        let cloud = Self {
            env,
            bus,
            process,
            started,
            network,
            images,
            scheduler,
            volumes,
            hosts,
            client: reqwest::Client::new(),
            database,
        };
        cloud
            .admin_post(
                "/flavors",
                json!({ "flavor": { "name": "m1.tiny", "id": "1", "ram": 512, "vcpus": 1, "disk": 1 } }),
            )
            .await
            .expect(200);
        cloud
    }

    /// An api service with nothing around it.
    pub async fn start_alone(process: &Process, config: Config) -> anyhow::Result<Started> {
        let env = process.env.clone();
        let bus = Bus::in_process(env.clone(), Arc::new(NoSeal));
        let verifier = TokenVerifier::fixed(env, tokens());
        start(process.clone(), bus, config, verifier).await
    }

    pub async fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<Vec<u8>>,
    ) -> Answer {
        self.request_with(method, path, token, None, body).await
    }

    /// A request that may have an `Idempotency-Key`.
    async fn request_with(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        key: Option<&str>,
        body: Option<Vec<u8>>,
    ) -> Answer {
        let url = if path == "/" || path.starts_with("//") {
            format!(
                "http://{}{}",
                self.started.compute,
                path.strip_prefix('/').unwrap_or_default()
            )
        } else {
            format!("http://{}/v2.1{path}", self.started.compute)
        };
        let mut request = self.client.request(method.parse().unwrap(), url);
        if let Some(token) = token {
            request = request.header("X-Auth-Token", token);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = body {
            request = request
                .header("Content-Type", "application/json")
                .body(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.unwrap();
        Answer {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, Some("member"), None).await
    }

    pub async fn get_as(&self, token: &str, path: &str) -> Answer {
        self.request("GET", path, Some(token), None).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, Some("member"), None).await
    }

    pub async fn post_as(&self, token: &str, path: &str, body: Value) -> Answer {
        self.request("POST", path, Some(token), Some(body.to_string().into()))
            .await
    }

    /// A post with an `Idempotency-Key`.
    pub async fn post_keyed(&self, token: &str, path: &str, key: &str, body: &Value) -> Answer {
        self.post_keyed_text(token, path, key, body.to_string())
            .await
    }

    /// The same, with a body as it stands.
    pub async fn post_keyed_text(
        &self,
        token: &str,
        path: &str,
        key: &str,
        body: String,
    ) -> Answer {
        self.request_with("POST", path, Some(token), Some(key), Some(body.into()))
            .await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_as("member", path, body).await
    }

    pub async fn admin_post(&self, path: &str, body: Value) -> Answer {
        self.post_as("admin", path, body).await
    }

    pub async fn put_as(&self, token: &str, path: &str, body: Value) -> Answer {
        self.request("PUT", path, Some(token), Some(body.to_string().into()))
            .await
    }

    /// Asks for a server and returns its id.
    pub async fn create(&self, name: &str) -> String {
        let body = self.post("/servers", server_body(name)).await.expect(202);
        body["server"]["id"].as_str().unwrap().to_owned()
    }

    pub async fn show(&self, id: &str) -> Value {
        self.get_as("admin", &format!("/servers/{id}"))
            .await
            .expect(200)["server"]
            .clone()
    }

    /// Waits until the server's status is `status`, and returns it.
    #[track_caller]
    pub fn wait_status(&self, id: &str, status: &'static str) -> impl Future<Output = Value> + '_ {
        let id = id.to_owned();
        let place = std::panic::Location::caller();
        async move {
            let mut last = Value::Null;
            let waited = wait_for(async || {
                last = self.show(&id).await;
                last["status"] == status && last["OS-EXT-STS:task_state"].is_null()
            })
            .await;
            assert!(waited, "{place}: never {status}: {last:#}");
            last
        }
    }

    /// Waits until the server is gone.
    pub async fn wait_gone(&self, id: &str) {
        let gone =
            wait_for(async || self.get_as("admin", &format!("/servers/{id}")).await.status == 404)
                .await;
        assert!(gone, "never gone: {:#}", self.show(id).await);
    }

    /// A server that runs.
    pub async fn running(&self, name: &str) -> String {
        let id = self.create(name).await;
        self.wait_status(&id, "ACTIVE").await;
        id
    }

    pub async fn action(&self, id: &str, body: Value) -> Answer {
        self.post(&format!("/servers/{id}/action"), body).await
    }

    /// Nothing is left anywhere of any server.
    pub async fn assert_nothing_left(&self) {
        let clean = wait_for(async || {
            self.network.ports.lock().unwrap().is_empty()
                && self.hosts.iter().all(|host| host.is_empty())
        })
        .await;
        assert!(
            clean,
            "ports {:?}, hosts {:?}",
            self.network.ports.lock().unwrap(),
            self.hosts
                .iter()
                .map(|host| host.left())
                .collect::<Vec<_>>()
        );
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.process.shutdown.cancel();
    }
}

pub fn server_body(name: &str) -> Value {
    json!({ "server": {
        "name": name,
        "imageRef": crate::fakes::IMAGE,
        "flavorRef": "1",
        "networks": [{ "uuid": crate::fakes::NETWORK }],
    }})
}

/// Polls until the condition holds; false after half a minute.
pub async fn wait_for(mut holds: impl AsyncFnMut() -> bool) -> bool {
    let bound = tokio::time::Instant::now() + Duration::from_secs(30);
    while tokio::time::Instant::now() < bound {
        if holds().await {
            return true;
        }
        tokio::task::yield_now().await;
        let env = system_env();
        env.clock.sleep(Duration::from_millis(10)).await;
    }
    false
}
