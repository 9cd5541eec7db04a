//! A service of one's own, and a client for it.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use yakumo_auth::{JwsContextSeal, TokenVerifier, VerifierConfig};
use yakumo_db::{Db, DbConfig};
use yakumo_identity::{BootstrapConfig, Config, EndpointConfig, PasswordConfig, start};
use yakumo_rpc::Bus;
use yakumo_service::{Process, Secret, system_env};
use yakumo_types::Env;

/// A running service; ends when dropped.
pub struct World {
    pub process: Process,
    pub bus: Bus,
    pub base: String,
    pub http: reqwest::Client,
    pub folder: tempfile::TempDir,
    pub config: Config,
}

pub const PASSWORD: &str = "first-password";

impl Drop for World {
    fn drop(&mut self) {
        self.process.shutdown.cancel();
    }
}

pub fn config() -> Config {
    let endpoint = |url: &str| EndpointConfig {
        public: url.into(),
        ..EndpointConfig::default()
    };
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        public_url: "http://identity.example:5000".into(),
        password: PasswordConfig {
            memory_kib: 64,
            iterations: 1,
            ..PasswordConfig::default()
        },
        bootstrap: BootstrapConfig {
            admin_password: Secret::new(PASSWORD),
            endpoints: [
                (
                    "identity".to_owned(),
                    endpoint("http://identity.example:5000/v3"),
                ),
                (
                    "compute".to_owned(),
                    endpoint("http://compute.example:8774/v2.1"),
                ),
                (
                    "object-store".to_owned(),
                    endpoint("http://objects.example:8080/v1/AUTH_$(project_id)s"),
                ),
            ]
            .into(),
            ..BootstrapConfig::default()
        },
        ..Config::default()
    }
}

pub async fn world() -> World {
    world_with(config()).await
}

pub async fn world_with(config: Config) -> World {
    let folder = tempfile::tempdir().unwrap();
    let db = connect(&folder).await;
    world_on(db, folder, config).await
}

pub async fn world_on(db: Db, folder: tempfile::TempDir, config: Config) -> World {
    world_by(system_env(), db, folder, config).await
}

pub async fn world_by(env: Env, db: Db, folder: tempfile::TempDir, config: Config) -> World {
    let process = Process::new("identity", env.clone());
    let seal = Arc::new(JwsContextSeal::ephemeral(env.clone()).unwrap());
    let bus = Bus::in_process(env, seal);
    let started = start(process.clone(), bus.clone(), db, config.clone())
        .await
        .unwrap();
    World {
        process,
        bus,
        base: format!("http://{}", started.address),
        http: reqwest::Client::new(),
        folder,
        config,
    }
}

pub async fn connect(folder: &tempfile::TempDir) -> Db {
    let config = DbConfig {
        sqlite_durable: false,
        ..DbConfig::sqlite(&folder.path().join("identity.db"))
    };
    Db::connect(&config).await.unwrap()
}

/// An answer.
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The id of the one thing that the answer holds.
    pub fn id(&self) -> String {
        let object = self.body.as_object().expect("an object");
        let thing = object.values().next().expect("a thing");
        thing["id"].as_str().expect("an id").to_owned()
    }

    pub fn ids(&self, list: &str) -> Vec<String> {
        self.body[list]
            .as_array()
            .expect("a list")
            .iter()
            .map(|item| item["id"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

impl World {
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Answer {
        self.send_with(method, path, token, body, &[]).await
    }

    pub async fn send_with(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.header("x-auth-token", token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        Answer {
            status,
            headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.send(Method::GET, path, Some(token), None).await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(token), Some(&body))
            .await
    }

    pub async fn patch(&self, path: &str, token: &str, body: Value) -> Answer {
        self.send(Method::PATCH, path, Some(token), Some(&body))
            .await
    }

    pub async fn put(&self, path: &str, token: &str) -> Answer {
        self.send(Method::PUT, path, Some(token), None).await
    }

    pub async fn delete(&self, path: &str, token: &str) -> Answer {
        self.send(Method::DELETE, path, Some(token), None).await
    }

    /// `POST /v3/auth/tokens`.
    pub async fn authenticate(&self, auth: Value) -> Answer {
        let body = json!({ "auth": auth });
        self.send(Method::POST, "/v3/auth/tokens", None, Some(&body))
            .await
    }

    pub async fn login(&self, user: &str, password: &str, scope: Value) -> Answer {
        self.authenticate(password_auth(user, password, scope))
            .await
    }

    /// A token for a user of the default domain, for a project of it.
    pub async fn token(&self, user: &str, password: &str, project: &str) -> String {
        let scope = json!({"project": {"name": project, "domain": {"id": "default"}}});
        let answer = self.login(user, password, scope).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        subject(&answer)
    }

    pub async fn admin(&self) -> String {
        self.token("admin", PASSWORD, "admin").await
    }

    /// A project of the default domain.
    pub async fn project(&self, name: &str) -> String {
        let admin = self.admin().await;
        let answer = self
            .post("/v3/projects", &admin, json!({"project": {"name": name}}))
            .await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.id()
    }

    /// A user of the default domain, with a password that is its name.
    pub async fn user(&self, name: &str) -> String {
        let admin = self.admin().await;
        let user = json!({"user": {"name": name, "password": name}});
        let answer = self.post("/v3/users", &admin, user).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.id()
    }

    pub async fn role_id(&self, name: &str) -> String {
        let admin = self.admin().await;
        let answer = self.get(&format!("/v3/roles?name={name}"), &admin).await;
        answer.ids("roles").pop().expect("the role")
    }

    /// Gives a role on a project.
    pub async fn grant(&self, project: &str, user: &str, role: &str) {
        let (admin, role) = (self.admin().await, self.role_id(role).await);
        let path = format!("/v3/projects/{project}/users/{user}/roles/{role}");
        assert_eq!(self.put(&path, &admin).await.status, 204);
    }

    /// A user with a role on a project of its own: user, project, token.
    pub async fn person(&self, name: &str, role: &str) -> (String, String, String) {
        let project = self.project(name).await;
        let user = self.user(name).await;
        self.grant(&project, &user, role).await;
        let token = self.token(name, name, name).await;
        (user, project, token)
    }

    /// A verifier as another service has it: over the bus.
    pub async fn verifier(&self) -> TokenVerifier {
        let verifier = TokenVerifier::start(&self.process, &self.bus, VerifierConfig::default());
        verifier.ready(Duration::from_secs(10)).await.unwrap();
        verifier
    }
}

pub fn password_auth(user: &str, password: &str, scope: Value) -> Value {
    let mut auth = json!({"identity": {
        "methods": ["password"],
        "password": {"user": {
            "name": user,
            "domain": {"id": "default"},
            "password": password,
        }},
    }});
    if !scope.is_null() {
        auth["scope"] = scope;
    }
    auth
}

pub fn token_auth(token: &str, scope: Value) -> Value {
    let mut auth = json!({"identity": {"methods": ["token"], "token": {"id": token}}});
    if !scope.is_null() {
        auth["scope"] = scope;
    }
    auth
}

pub fn subject(answer: &Answer) -> String {
    answer.headers["x-subject-token"]
        .to_str()
        .unwrap()
        .to_owned()
}
