//! A manager and one storage host, in a folder of their own.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use yakumo_auth::JwsContextSeal;
use yakumo_contracts::common::{Empty, Fence};
use yakumo_contracts::volume::{
    AttachmentRequest, CreateVolumeRequest, ReserveAttachmentRequest, Volume, VolumeRequest,
    VolumesClient,
};
use yakumo_db::Backend;
use yakumo_rpc::{Bus, Handler, ServeOptions, Target, Topic};
use yakumo_service::{Process, system_env};
use yakumo_testing::databases::{TestDatabase, fresh};
use yakumo_types::{Fault, HostId, ProjectId, RequestContext};
use yakumo_volume::{Config, Driver, HostConfig, HostSettings, start_host, start_manager};

pub struct Cloud {
    pub folder: tempfile::TempDir,
    pub bus: Bus,
    pub process: Process,
    pub volumes: VolumesClient,
    data_dir: PathBuf,
    _database: TestDatabase,
}

pub const HOST: &str = "node-1";

impl Cloud {
    pub async fn start(driver: Driver) -> Self {
        Self::on(Backend::Sqlite, driver).await
    }

    pub async fn on(backend: Backend, driver: Driver) -> Self {
        Self::in_folder(backend, driver, None).await
    }

    /// A cloud whose storage host keeps its data in `data_dir`, if there is one.
    pub async fn in_folder(backend: Backend, driver: Driver, data_dir: Option<PathBuf>) -> Self {
        let database = fresh(backend).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let env = system_env();
        let bus = Bus::in_process(
            env.clone(),
            Arc::new(JwsContextSeal::ephemeral(env.clone()).unwrap()),
        );
        let process = Process::new("test", env);
        let config = Config {
            database: database.config.clone(),
            quota_volumes: 3,
            quota_gigabytes: 10,
            host: HostConfig {
                driver,
                ..HostConfig::default()
            },
            ..Config::default()
        };
        start_manager(process.clone(), bus.clone(), config.clone())
            .await
            .unwrap();
        let cloud = Self {
            volumes: VolumesClient::new(bus.clone(), Target::service("volume")),
            data_dir: data_dir.unwrap_or_else(|| folder.path().to_owned()),
            folder,
            bus,
            process,
            _database: database,
        };
        cloud.start_host(&config).await;
        // A volume that finds no storage host ends in error, so the first one
        // must not overtake the host's announcement.
        cloud.settled(|| cloud.knows_a_host()).await;
        cloud
    }

    async fn start_host(&self, config: &Config) {
        let bus = self.bus.as_host(HOST);
        let settings = HostSettings {
            host: HOST.into(),
            recognition: yakumo_service::Recognition::always(),
            beat: yakumo_service::SharedBeat::default(),
            host_id: HostId::from_uuid(Uuid::from_u128(1)),
            data_dir: self.data_dir.clone(),
        };
        let handler: Arc<dyn Handler> = start_host(&self.process, &bus, &settings, config)
            .await
            .unwrap();
        bus.serve(
            Topic::Host(HOST.into()),
            vec![handler],
            ServeOptions::default(),
        )
        .await
        .unwrap();
    }

    async fn knows_a_host(&self) -> bool {
        let context = self.caller(1, "admin");
        let list = self.volumes.list_storage_hosts(&context, Empty {}).await;
        list.is_ok_and(|list| !list.hosts.is_empty())
    }

    pub fn caller(&self, project: u128, role: &str) -> RequestContext {
        RequestContext {
            project_id: Some(ProjectId::from_uuid(Uuid::from_u128(project))),
            roles: vec![role.into()],
            ..RequestContext::host(self.process.env.id())
        }
    }

    pub fn member(&self, project: u128) -> RequestContext {
        self.caller(project, "member")
    }

    pub async fn create(&self, ctx: &RequestContext, name: &str) -> Result<Volume, Fault> {
        let request = CreateVolumeRequest {
            name: name.into(),
            size: 1,
            ..Default::default()
        };
        self.volumes.create_volume(ctx, request).await
    }

    pub async fn show(&self, ctx: &RequestContext, id: &str) -> Result<Volume, Fault> {
        self.volumes
            .show_volume(ctx, VolumeRequest { id: id.into() })
            .await
    }

    pub async fn reaches(&self, ctx: &RequestContext, id: &str, status: &str) {
        self.settled(|| async { self.show(ctx, id).await.is_ok_and(|it| it.status == status) })
            .await;
    }

    /// An available volume.
    pub async fn available(&self, ctx: &RequestContext, name: &str) -> String {
        let id = self.create(ctx, name).await.unwrap().id;
        self.reaches(ctx, &id, "available").await;
        id
    }

    /// Waits until `done` holds; fails after 20 seconds.
    pub async fn settled<F: Future<Output = bool>>(&self, done: impl Fn() -> F) {
        let wait = async {
            while !done().await {
                self.process
                    .env
                    .clock
                    .sleep(Duration::from_millis(20))
                    .await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("did not settle");
    }
}

pub fn fence(epoch: u64) -> Option<Fence> {
    Some(Fence {
        workflow_id: Uuid::from_u128(9).to_string(),
        step: "attach_volume".into(),
        epoch,
    })
}

pub const ATTACHMENT: &str = "00000000-0000-0000-0000-0000000000aa";
pub const SECOND: &str = "00000000-0000-0000-0000-0000000000ab";
pub const SERVER: &str = "00000000-0000-0000-0000-0000000000bb";

pub fn reserve(volume: &str, attachment: &str, epoch: u64) -> ReserveAttachmentRequest {
    ReserveAttachmentRequest {
        volume_id: volume.into(),
        attachment_id: attachment.into(),
        server_id: SERVER.into(),
        host: HOST.into(),
        device: "/dev/vdb".into(),
        fence: fence(epoch),
    }
}

pub fn step(attachment: &str, epoch: u64) -> AttachmentRequest {
    AttachmentRequest {
        attachment_id: attachment.into(),
        fence: fence(epoch),
    }
}
