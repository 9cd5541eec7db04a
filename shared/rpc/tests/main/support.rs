//! Worlds to test in, and handlers that remember what they were given.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::sync::{Mutex, OnceCell, RwLock, RwLockReadGuard};
use yakumo_rpc::{
    AmqpConfig, Bus, Handler, InProcessOptions, Incoming, MethodId, ServeOptions, Target, Topic,
    Version,
};
use yakumo_service::system_env;
use yakumo_testing::rabbitmq::Broker;
use yakumo_types::{ContextSeal, Env, Fault, ProjectId, RequestContext, RequestId};

pub const SERVICE: &str = "test.v1.Test";
pub const BOUND: Duration = Duration::from_secs(20);

pub fn env() -> Env {
    system_env()
}

/// Text that only those who know the secret can make.
pub struct TestSeal {
    pub may_seal: bool,
}

const SECRET: &str = "sealed:";

impl ContextSeal for TestSeal {
    fn seal(&self, context: &RequestContext) -> Result<String, Fault> {
        if !self.may_seal {
            return Err(Fault::forbidden("This process may not seal."));
        }
        Ok(format!(
            "{SECRET}{}",
            serde_json::to_string(context).unwrap()
        ))
    }

    fn open(&self, sealed: &str) -> Result<RequestContext, Fault> {
        sealed
            .strip_prefix(SECRET)
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| Fault::unauthorized("The seal is broken."))
    }
}

pub fn seal() -> Arc<TestSeal> {
    Arc::new(TestSeal { may_seal: true })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    InProcess,
    Amqp,
}

/// Two control processes, one host and a topic that nobody else uses.
pub struct World {
    pub control: Bus,
    pub other: Bus,
    /// The host `a`.
    pub host: Bus,
    pub topic: &'static str,
    _quiet: Option<RwLockReadGuard<'static, ()>>,
}

/// Those who need the broker as it is hold this for reading; those who stop it, for writing.
pub static BROKER_PEACE: RwLock<()> = RwLock::const_new(());
/// Whoever looks at what is parked takes it away for as long.
pub static PARKED: Mutex<()> = Mutex::const_new(());
static BROKER: OnceCell<(Broker, String, String)> = OnceCell::const_new();

/// The broker of this binary, and the URLs of the hosts `a` and `b`.
pub async fn broker() -> &'static (Broker, String, String) {
    BROKER
        .get_or_init(|| async {
            let _ = tracing_subscriber::fmt()
                .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
                .with_test_writer()
                .try_init();
            let broker = Broker::start().await.unwrap();
            let (a, b) = tokio::join!(broker.add_host("a", "pa"), broker.add_host("b", "pb"));
            (broker, a.unwrap(), b.unwrap())
        })
        .await
}

pub fn config(url: &str) -> AmqpConfig {
    AmqpConfig::new(url, "test")
}

pub async fn connect(url: &str) -> Bus {
    Bus::connect(config(url), env(), seal()).await.unwrap()
}

static NAMES: AtomicU64 = AtomicU64::new(0);

/// A topic of one's own, in letters.
pub fn fresh_topic() -> &'static str {
    let mut number = NAMES.fetch_add(1, Ordering::Relaxed);
    let mut name = String::from("test-");
    for _ in 0..4 {
        name.push(char::from(b'a' + u8::try_from(number % 26).unwrap()));
        number /= 26;
    }
    Box::leak(name.into_boxed_str())
}

impl World {
    pub async fn new(transport: Transport) -> Self {
        let topic = fresh_topic();
        match transport {
            Transport::InProcess => {
                let options = InProcessOptions {
                    seal_contexts: true,
                    ..InProcessOptions::default()
                };
                let (bus, _) = Bus::in_process_with(env(), seal(), options);
                Self {
                    other: bus.clone(),
                    host: bus.as_host("a"),
                    control: bus,
                    topic,
                    _quiet: None,
                }
            }
            Transport::Amqp => {
                let (broker, host, _) = broker().await;
                let quiet = BROKER_PEACE.read().await;
                Self {
                    control: connect(&broker.url()).await,
                    other: connect(&broker.url()).await,
                    host: connect(host).await,
                    topic,
                    _quiet: Some(quiet),
                }
            }
        }
    }

    pub fn target(&self) -> Target {
        Target::service(self.topic)
    }

    pub fn topic(&self) -> Topic {
        Topic::Control(self.topic)
    }

    /// Serves the topic in the first control process.
    pub async fn serve(&self, handler: Arc<Test>) -> yakumo_rpc::Server {
        self.serve_with(handler, options()).await
    }

    pub async fn serve_with(
        &self,
        handler: Arc<Test>,
        options: ServeOptions,
    ) -> yakumo_rpc::Server {
        self.control
            .serve(self.topic(), vec![handler], options)
            .await
            .unwrap()
    }

    pub async fn call(&self, name: &'static str, payload: &[u8]) -> Outcome {
        self.control
            .call(
                &tenant(),
                &self.target(),
                method(name),
                payload.to_vec(),
                BOUND,
            )
            .await
    }

    pub async fn cast(&self, name: &'static str, payload: &[u8]) {
        self.control
            .cast(&tenant(), &self.target(), method(name), payload.to_vec())
            .await
            .unwrap();
    }
}

pub type Outcome = Result<Vec<u8>, yakumo_rpc::RpcError>;

pub fn options() -> ServeOptions {
    ServeOptions {
        attempts: 3,
        backoff: Duration::from_millis(10),
        ..ServeOptions::default()
    }
}

pub fn method(name: &'static str) -> MethodId {
    MethodId {
        service: SERVICE,
        method: name,
        version: Version { major: 1, minor: 2 },
    }
}

/// A member of some project.
pub fn tenant() -> RequestContext {
    RequestContext {
        user_name: "alice".into(),
        project_id: Some(env().id::<ProjectId>()),
        roles: vec!["member".into()],
        ..host_context()
    }
}

pub fn host_context() -> RequestContext {
    RequestContext::host(env().id::<RequestId>())
}

pub fn admin() -> RequestContext {
    RequestContext::internal(env().id())
}

type Work = dyn Fn(Incoming) -> BoxFuture<'static, Result<Vec<u8>, Fault>> + Send + Sync;

/// A handler that remembers what came, and does what it is told.
pub struct Test {
    pub seen: std::sync::Mutex<Vec<Incoming>>,
    pub running: AtomicUsize,
    pub most: AtomicUsize,
    work: Box<Work>,
}

impl Test {
    pub fn new<F>(work: impl Fn(Incoming) -> F + Send + Sync + 'static) -> Arc<Self>
    where
        F: Future<Output = Result<Vec<u8>, Fault>> + Send + 'static,
    {
        Arc::new(Self {
            seen: std::sync::Mutex::default(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            work: Box::new(move |incoming| Box::pin(work(incoming))),
        })
    }

    /// Answers with what it was given.
    pub fn echo() -> Arc<Self> {
        Self::new(|incoming| async move { Ok(incoming.payload.to_vec()) })
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn payloads(&self) -> Vec<Vec<u8>> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|it| it.payload.to_vec()).collect()
    }

    pub fn nth(&self, index: usize) -> Incoming {
        self.seen.lock().unwrap()[index].clone()
    }
}

#[async_trait]
impl Handler for Test {
    fn service(&self) -> &'static str {
        SERVICE
    }

    fn version(&self) -> Version {
        Version { major: 1, minor: 2 }
    }

    fn open_to_hosts(&self, method: &str) -> bool {
        method.starts_with("Report")
    }

    async fn handle(&self, incoming: Incoming) -> Result<Vec<u8>, Fault> {
        self.seen.lock().unwrap().push(incoming.clone());
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let result = (self.work)(incoming).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

/// Waits until something is so, and fails the test if it never is.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let watch = async {
        while !is_so() {
            env().clock.sleep(Duration::from_millis(5)).await;
        }
    };
    let bound = Duration::from_secs(60);
    assert!(
        tokio::time::timeout(bound, watch).await.is_ok(),
        "it never came true: {what}"
    );
}

/// Gives a wrong thing some time to happen.
pub async fn a_moment() {
    env().clock.sleep(Duration::from_millis(300)).await;
}
