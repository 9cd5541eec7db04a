//! One object store with its own folder, database and port.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Body, Method, StatusCode};
use uuid::Uuid;
use yakumo_auth::{
    ProjectScope, SigningKey, TokenClaims, TokenVerifier, VerificationSource, VerifierConfig,
    VerifyingKey,
};
use yakumo_contracts::identity::{VerificationKey, VerificationState, VerificationStateRequest};
use yakumo_db::{Backend, DbConfig};
use yakumo_object_store::{Config, Started};
use yakumo_rpc::Bus;
use yakumo_service::{Process, system_env};
use yakumo_testing::databases::fresh;
use yakumo_types::{ContextSeal, DomainId, Fault, ProjectId, RequestContext, RequestId, UserId};

/// The bus is there because a service has one; nobody speaks here.
struct NoSeal;

impl ContextSeal for NoSeal {
    fn seal(&self, _: &RequestContext) -> Result<String, Fault> {
        Err(Fault::internal("no"))
    }

    fn open(&self, _: &str) -> Result<RequestContext, Fault> {
        Err(Fault::unauthorized("no"))
    }
}

/// An identity service that has one key and revoked nothing.
struct OneKey(VerifyingKey);

#[async_trait::async_trait]
impl VerificationSource for OneKey {
    async fn verification_state(
        &self,
        _: VerificationStateRequest,
    ) -> Result<VerificationState, Fault> {
        Ok(VerificationState {
            log_id: "log".into(),
            revision: 1,
            keys: vec![VerificationKey {
                id: self.0.id().to_owned(),
                public_key: self.0.as_bytes().to_vec(),
            }],
            ..VerificationState::default()
        })
    }
}

/// A token of `member` that ends `seconds` from now.
pub fn signed(key: &SigningKey, seconds: i64) -> String {
    let now = system_env().now().as_secs();
    let context = context("member");
    let claims = TokenClaims {
        iss: "yakumo".into(),
        sub: context.user_id,
        jti: "j".into(),
        iat: now - 100,
        exp: now + seconds,
        rev: 1,
        user_name: "member".into(),
        user_domain_id: DomainId::from_uuid(Uuid::from_u128(7)),
        methods: vec!["password".into()],
        parent: None,
        project: context.project_id.map(|id| ProjectScope {
            id,
            name: "one".into(),
            domain_id: DomainId::from_uuid(Uuid::from_u128(7)),
        }),
        domain_id: None,
        system: false,
        roles: vec!["member".into()],
    };
    key.sign(&claims).unwrap()
}

/// The token with one bit changed in its head, its claims or its signature.
pub fn tampered(token: &str) -> Vec<String> {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3);
    (0..3)
        .map(|changed| {
            let mut parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            let middle = parts[changed].len() / 2;
            let other = if parts[changed].as_bytes()[middle] == b'A' {
                "B"
            } else {
                "A"
            };
            parts[changed].replace_range(middle..=middle, other);
            parts.join(".")
        })
        .collect()
}

thread_local! {
    /// The database of new worlds: tests of the whole matrix set it.
    pub static BACKEND: Cell<Backend> = const { Cell::new(Backend::Sqlite) };
}

pub struct World {
    pub process: Process,
    pub started: Started,
    pub folder: Arc<tempfile::TempDir>,
    pub http: reqwest::Client,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

pub fn project(number: u128) -> ProjectId {
    ProjectId::from_uuid(Uuid::from_u128(number))
}

/// `member` and `reader` are of project 1, `other` of 2, `admin` of 3.
pub fn context(token: &str) -> RequestContext {
    let (number, role) = match token {
        "member" => (1, "member"),
        "reader" => (1, "reader"),
        "other" => (2, "member"),
        "admin" => (3, "admin"),
        _ => panic!("no such caller"),
    };
    RequestContext {
        user_id: UserId::from_uuid(Uuid::from_u128(number + 100)),
        project_id: Some(project(number)),
        roles: vec![role.to_owned()],
        system: false,
        ..RequestContext::internal(RequestId::from_uuid(Uuid::from_u128(9)))
    }
}

pub fn config(folder: &tempfile::TempDir) -> Config {
    let mut config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        database: DbConfig::sqlite(&folder.path().join("objects.db")),
        data_dir: folder.path().join("data"),
        max_object_bytes: 4 << 20,
        orphan_seconds: 1,
        ..Config::default()
    };
    config.database.sqlite_durable = false;
    config
}

/// The path of something in project 1's account.
pub fn path(rest: &str) -> String {
    format!("/v1/AUTH_{}{rest}", project(1).simple())
}

impl World {
    pub async fn new() -> Self {
        Self::configured(|_| {}).await
    }

    /// A world whose settings `change` has changed.
    pub async fn configured(change: impl FnOnce(&mut Config)) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let mut config = config(&folder);
        change(&mut config);
        let backend = BACKEND.get();
        if backend != Backend::Sqlite {
            config.database = fresh(backend).await.unwrap().config;
        }
        Self::with(folder, config).await
    }

    /// A world with the container `/c`.
    pub async fn with_container() -> Self {
        let world = Self::new().await;
        let made = world.put("member", "/c", "").await;
        assert_eq!(made.status, 201);
        world
    }

    pub async fn with(folder: Arc<tempfile::TempDir>, config: Config) -> Self {
        let env = system_env();
        let process = Process::new("object-store", env.clone());
        let tokens: HashMap<String, RequestContext> = ["member", "reader", "other", "admin"]
            .iter()
            .map(|token| ((*token).to_owned(), context(token)))
            .collect();
        let verifier = TokenVerifier::fixed(env, tokens);
        Self::start(process, folder, config, verifier).await
    }

    /// A world whose tokens are signed, with the key that signs them.
    pub async fn with_signed_tokens() -> (Self, SigningKey) {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let config = config(&folder);
        let process = Process::new("object-store", system_env());
        let key = SigningKey::generate(&process.env).unwrap();
        let keys = Arc::new(OneKey(key.verifying_key()));
        let verifier = TokenVerifier::start_with(&process, keys, VerifierConfig::default());
        verifier.ready(Duration::from_secs(10)).await.unwrap();
        (Self::start(process, folder, config, verifier).await, key)
    }

    async fn start(
        process: Process,
        folder: Arc<tempfile::TempDir>,
        config: Config,
        verifier: TokenVerifier,
    ) -> Self {
        let bus = Bus::in_process(process.env.clone(), Arc::new(NoSeal));
        let started = yakumo_object_store::start(process.clone(), bus, config, Some(verifier))
            .await
            .unwrap();
        Self {
            process,
            started,
            folder,
            http: reqwest::Client::new(),
        }
    }

    /// A request for something in project 1's account; `rest` is as it stands
    /// in the URL.
    pub fn request(&self, token: &str, method: &str, rest: &str) -> reqwest::RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("http://{}{}", self.started.address, path(rest));
        let request = self.http.request(method, url);
        match token {
            "" => request,
            token => request.header("x-auth-token", token),
        }
    }

    pub async fn call(&self, token: &str, method: &str, rest: &str) -> Answer {
        send(self.request(token, method, rest)).await
    }

    pub async fn get(&self, token: &str, rest: &str) -> Answer {
        self.call(token, "GET", rest).await
    }

    pub async fn put(&self, token: &str, rest: &str, body: impl Into<Body>) -> Answer {
        let body = body.into();
        let mut request = self.request(token, "PUT", rest);
        // The client leaves the length out where there are no bytes.
        if body.as_bytes().is_some_and(<[u8]>::is_empty) {
            request = request.header("content-length", "0");
        }
        send(request.body(body)).await
    }

    /// A request with headers.
    pub async fn with_headers(
        &self,
        token: &str,
        method: &str,
        rest: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = self.request(token, method, rest);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if method == "PUT" {
            request = request.header("content-length", "0").body("");
        }
        send(request).await
    }

    /// Names of a text listing.
    pub async fn names(&self, rest: &str) -> Vec<String> {
        let answer = self.get("member", rest).await;
        assert!(answer.status.is_success(), "{rest}: {}", answer.status);
        answer.text().lines().map(str::to_owned).collect()
    }

    /// Every file below the data folder.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().join("data")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found
    }

    pub async fn wait_for_files(&self, count: usize) {
        self.wait(&format!("{count} files"), || async {
            self.files().len() == count
        })
        .await;
    }

    pub async fn wait<F: Future<Output = bool>>(&self, what: &str, condition: impl Fn() -> F) {
        let waiting = async {
            while !condition().await {
                self.process
                    .env
                    .clock
                    .sleep(Duration::from_millis(20))
                    .await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .unwrap_or_else(|_| panic!("never came: {what}"));
    }

    pub async fn stop(&self) {
        assert!(self.process.drain(Duration::from_secs(20)).await);
    }
}

pub async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    Answer {
        status: response.status(),
        headers: response.headers().clone(),
        body: response.bytes().await.unwrap().to_vec(),
    }
}
