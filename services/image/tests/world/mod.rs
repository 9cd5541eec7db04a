//! One image service with its own folder, database and ports.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc::UnboundedSender;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;
use yakumo_auth::{
    ProjectScope, SigningKey, TokenClaims, TokenVerifier, VerificationSource, VerifierConfig,
    VerifyingKey,
};
use yakumo_contracts::identity::{VerificationKey, VerificationState, VerificationStateRequest};
use yakumo_db::{Backend, DbConfig};
use yakumo_image::{Config, Started};
use yakumo_rpc::Bus;
use yakumo_service::{Process, system_env};
use yakumo_testing::databases::fresh;
use yakumo_types::{ContextSeal, DomainId, Fault, ProjectId, RequestContext, RequestId, UserId};

/// Contexts as plain JSON: the bus within a process checks nothing else.
struct PlainSeal;

impl ContextSeal for PlainSeal {
    fn seal(&self, context: &RequestContext) -> Result<String, Fault> {
        Ok(serde_json::to_string(context).unwrap())
    }

    fn open(&self, sealed: &str) -> Result<RequestContext, Fault> {
        serde_json::from_str(sealed).map_err(|_| Fault::unauthorized("no"))
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
        sub: UserId::from_uuid(Uuid::from_u128(101)),
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

/// The pieces of an upload.
pub type Pieces = UnboundedSender<Result<Bytes, std::io::Error>>;

pub struct World {
    pub process: Process,
    pub bus: Bus,
    pub started: Started,
    pub folder: Arc<tempfile::TempDir>,
    pub http: reqwest::Client,
}

pub fn project(number: u128) -> ProjectId {
    ProjectId::from_uuid(Uuid::from_u128(number))
}

/// A caller of a project: `member`, `reader`, `other` and `admin` are tokens.
pub fn context(token: &str) -> RequestContext {
    let (number, role) = match token {
        "member" => (1, "member"),
        "reader" => (1, "reader"),
        "other" => (2, "member"),
        "admin" => (3, "admin"),
        _ => panic!("no such caller"),
    };
    RequestContext {
        project_id: Some(project(number)),
        roles: vec![role.to_owned()],
        system: false,
        ..RequestContext::internal(RequestId::from_uuid(Uuid::from_u128(9)))
    }
}

pub fn config(folder: &tempfile::TempDir) -> Config {
    let mut config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        database: DbConfig::sqlite(&folder.path().join("image.db")),
        data_dir: folder.path().join("data"),
        max_image_bytes: 8 << 20,
        max_virtual_bytes: 1 << 40,
        upload_lease_seconds: 3,
        idle_timeout_seconds: 20,
        ..Config::default()
    };
    config.database.sqlite_durable = false;
    config.grpc.listen = "127.0.0.1:0".parse().unwrap();
    config
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

    pub async fn with(folder: Arc<tempfile::TempDir>, config: Config) -> Self {
        let env = system_env();
        let process = Process::new("image", env.clone());
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
        let process = Process::new("image", system_env());
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
        let bus = Bus::in_process(process.env.clone(), Arc::new(PlainSeal));
        let started = yakumo_image::start(process.clone(), bus.clone(), config, Some(verifier))
            .await
            .unwrap();
        Self {
            process,
            bus,
            started,
            folder,
            http: reqwest::Client::new(),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.started.address)
    }

    pub fn request(&self, token: &str, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, self.url(path));
        match token {
            "" => request,
            token => request.header("X-Auth-Token", token),
        }
    }

    pub async fn get(&self, token: &str, path: &str) -> (StatusCode, Value) {
        answer(self.request(token, Method::GET, path)).await
    }

    pub async fn post(&self, token: &str, path: &str, body: Value) -> (StatusCode, Value) {
        answer(self.request(token, Method::POST, path).json(&body)).await
    }

    pub async fn delete(&self, token: &str, path: &str) -> StatusCode {
        answer(self.request(token, Method::DELETE, path)).await.0
    }

    pub async fn patch(&self, token: &str, id: &str, changes: Value) -> (StatusCode, Value) {
        let request = self
            .request(token, Method::PATCH, &format!("/v2/images/{id}"))
            .header(
                "content-type",
                "application/openstack-images-v2.1-json-patch",
            )
            .body(changes.to_string());
        answer(request).await
    }

    /// A queued image of the project of `token`; its id.
    pub async fn create(&self, token: &str, disk_format: &str) -> String {
        let body = json!({"name": "test", "disk_format": disk_format, "container_format": "bare"});
        let (status, image) = self.post(token, "/v2/images", body).await;
        assert_eq!(status, 201, "{image}");
        image["id"].as_str().unwrap().to_owned()
    }

    /// An upload under way: it takes the pieces that are put into the sender,
    /// and ends when that is closed.
    pub fn begin_upload(&self, token: &str, id: &str) -> (Pieces, JoinHandle<StatusCode>) {
        let (send, receive) = futures::channel::mpsc::unbounded();
        let upload = self
            .request(token, Method::PUT, &format!("/v2/images/{id}/file"))
            .header("content-type", "application/octet-stream")
            .body(reqwest::Body::wrap_stream(receive));
        let answer = tokio::spawn(async move { answer(upload).await.0 });
        (send, answer)
    }

    pub async fn wait_for_status(&self, id: &str, status: &str) {
        self.wait(status, || async { self.status_of(id).await == status })
            .await;
    }

    pub async fn upload(
        &self,
        token: &str,
        id: &str,
        data: impl Into<reqwest::Body>,
    ) -> (StatusCode, Value) {
        let request = self
            .request(token, Method::PUT, &format!("/v2/images/{id}/file"))
            .header("content-type", "application/octet-stream")
            .body(data);
        answer(request).await
    }

    /// An active raw image with this data; its id.
    pub async fn active(&self, token: &str, data: &[u8]) -> String {
        let id = self.create(token, "raw").await;
        let (status, body) = self.upload(token, &id, data.to_vec()).await;
        assert_eq!(status, 204, "{body}");
        id
    }

    pub async fn status_of(&self, id: &str) -> String {
        let (_, image) = self.get("admin", &format!("/v2/images/{id}")).await;
        image["status"].as_str().unwrap_or("gone").to_owned()
    }

    /// Every file below the data folder.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().join("data/blobs")];
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

    /// Waits until there are `count` files.
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

async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status, body)
}
