//! A manager's rules and one storage host on a bus in this process, for the
//! tests of what cannot be reached from outside.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use uuid::Uuid;
use yakumo_contracts::volume_host::{
    KeptVolume, ListKeptRequest, VolumeHostClient, VolumeHostHandler,
};
use yakumo_db::{Backend, Db};
use yakumo_rpc::{Bus, ServeOptions, Target, Topic};
use yakumo_service::system_env;
use yakumo_testing::databases::{self, TestDatabase};
use yakumo_types::{
    AttachmentId, Clock, ContextSeal, Env, Fault, ProjectId, RequestContext, Timestamp, VolumeId,
};
use yakumo_workflow::Engine;
use yakumo_workflow::testing::quick;

use crate::agent::{Agent, Records};
use crate::app::App;
use crate::config::Config;
use crate::drivers::{Export, SimulatedDriver, Space, VolumeDriver};
use crate::store::{self, Migrator, Walls, attachment, storage_host, volume};

pub(crate) const HOST: &str = "node-1";

struct NoSeal;

impl ContextSeal for NoSeal {
    fn seal(&self, _: &RequestContext) -> Result<String, Fault> {
        Err(Fault::internal("not sealed here"))
    }

    fn open(&self, _: &str) -> Result<RequestContext, Fault> {
        Err(Fault::unauthorized("not sealed here"))
    }
}

/// A clock that can be put forward.
pub(crate) struct Forward {
    inner: Arc<dyn Clock>,
    by: AtomicU64,
}

impl Forward {
    fn by(&self) -> Duration {
        Duration::from_secs(self.by.load(Ordering::SeqCst))
    }
}

impl Clock for Forward {
    fn now(&self) -> Timestamp {
        self.inner.now().plus(self.by())
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic() + self.by()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.inner.sleep(duration)
    }
}

pub(crate) struct World {
    pub app: Arc<App>,
    pub bus: Bus,
    pub host: VolumeHostClient,
    clock: Arc<Forward>,
    folder: tempfile::TempDir,
    _database: TestDatabase,
}

impl World {
    /// A world whose storage host serves.
    pub async fn new() -> Self {
        let world = Self::without_host(Backend::Sqlite).await;
        world.serve_host().await;
        world
    }

    /// A world whose storage host was heard just now, and does not answer.
    pub async fn without_host(backend: Backend) -> Self {
        let system = system_env();
        let clock = Arc::new(Forward {
            inner: system.clock.clone(),
            by: AtomicU64::new(0),
        });
        let env = Env {
            clock: clock.clone(),
            ..system
        };
        let database = databases::migrated::<Migrator>(backend).await.unwrap();
        let bus = Bus::in_process(env.clone(), Arc::new(NoSeal));
        let db = database.db.clone();
        let app = Arc::new(App {
            engine: Engine::with_config(db.clone(), env.clone(), quick()),
            env,
            db,
            bus: bus.clone(),
            config: Arc::new(Config::default()),
            heard: Arc::default(),
        });
        let world = Self {
            host: VolumeHostClient::new(bus.clone(), Target::host(HOST)),
            app,
            bus,
            clock,
            folder: tempfile::tempdir().unwrap(),
            _database: database,
        };
        world.hear_host().await;
        world
    }

    pub async fn serve_host(&self) {
        self.serve_host_with(Arc::new(SimulatedDriver::default()))
            .await;
    }

    pub async fn serve_host_with(&self, driver: Arc<dyn VolumeDriver>) {
        let folder = self.folder.path();
        let (records, tombstones) = (folder.join("records"), folder.join("tombstones"));
        let records = Records::load(&records, &tombstones).await.unwrap();
        let agent = Agent::new(self.app.env.clone(), records, driver);
        self.bus
            .serve(
                Topic::Host(HOST.into()),
                vec![Arc::new(VolumeHostHandler::new(Arc::new(agent)))],
                ServeOptions::default(),
            )
            .await
            .unwrap();
    }

    /// The storage host says that it is there.
    pub async fn hear_host(&self) {
        self.hear_host_at(self.app.env.now()).await;
    }

    /// It was heard then.
    pub async fn hear_host_at(&self, heard_at: Timestamp) {
        let row = storage_host::Model {
            host: HOST.into(),
            host_id: Uuid::from_u128(1).to_string(),
            availability_zone: "nova".into(),
            free_gib: 100,
            total_gib: 100,
            reachable_everywhere: true,
            heard_at: heard_at.as_micros(),
        };
        self.write(row).await;
    }

    async fn write(&self, row: storage_host::Model) {
        self.app
            .db
            .write(move |txn| {
                let row = row.clone();
                Box::pin(async move { store::storage_hosts::put(txn, vec![row]).await })
            })
            .await
            .unwrap();
    }

    /// Time passes, for everything but sleep.
    pub fn forward(&self, by: Duration) {
        self.clock.by.fetch_add(by.as_secs(), Ordering::SeqCst);
    }

    pub fn db(&self) -> &Db {
        &self.app.db
    }

    pub fn project(&self) -> ProjectId {
        ProjectId::from_uuid(Uuid::from_u128(1))
    }

    pub fn member(&self) -> RequestContext {
        RequestContext {
            project_id: Some(self.project()),
            roles: vec!["member".into()],
            system: false,
            ..RequestContext::internal(self.app.env.id())
        }
    }

    /// A row in this state, and nothing behind it.
    pub async fn insert(&self, status: &str) -> VolumeId {
        let id: VolumeId = self.app.env.id();
        let now = self.app.env.now().as_micros();
        let row = volume::Model {
            id: id.to_string(),
            project_id: self.project().to_string(),
            user_id: String::new(),
            name: "data".into(),
            description: String::new(),
            size: 1,
            status: status.into(),
            volume_type: "standard".into(),
            availability_zone: "nova".into(),
            host: if status == "creating" { "" } else { HOST }.into(),
            metadata: "{}".into(),
            fault: String::new(),
            created_at: now,
            updated_at: now,
            deleted_at: 0,
        };
        self.db()
            .write(move |txn| {
                let row = row.clone();
                Box::pin(async move { store::volumes::insert(txn, row).await })
            })
            .await
            .unwrap();
        id
    }

    pub async fn row(&self, id: VolumeId) -> Option<volume::Model> {
        store::volumes::find(self.db().read(), Walls::All, id)
            .await
            .unwrap()
    }

    pub async fn status(&self, id: VolumeId) -> String {
        self.row(id)
            .await
            .map_or_else(|| "gone".to_owned(), |row| row.status)
    }

    pub async fn attachments(&self, id: VolumeId) -> Vec<attachment::Model> {
        store::attachments::of_volumes(self.db().read(), &[id.to_string()])
            .await
            .unwrap()
    }

    /// What the storage host keeps.
    pub async fn kept(&self) -> Vec<KeptVolume> {
        self.host
            .list_kept(&self.app.internal(), ListKeptRequest::default())
            .await
            .unwrap()
            .volumes
    }
}

/// A storage host whose disk is broken.
pub(crate) struct Broken;

impl Broken {
    fn fault<T>() -> Result<T, Fault> {
        Err(Fault::internal("The disk is broken."))
    }
}

#[async_trait::async_trait]
impl VolumeDriver for Broken {
    async fn create(&self, _: VolumeId, _: u64) -> Result<(), Fault> {
        Self::fault()
    }

    async fn delete(&self, _: VolumeId) -> Result<(), Fault> {
        Self::fault()
    }

    async fn export(&self, _: VolumeId, _: &Export) -> Result<PathBuf, Fault> {
        Self::fault()
    }

    async fn unexport(&self, _: VolumeId, _: AttachmentId) -> Result<(), Fault> {
        Self::fault()
    }

    async fn is_exported(&self, _: VolumeId, _: AttachmentId) -> bool {
        false
    }

    async fn space(&self) -> Result<Space, Fault> {
        Self::fault()
    }
}
