//! What is left is found, and what is in use is left alone.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use yakumo_contracts::common::Fence;
use yakumo_contracts::volume::{
    AttachmentRequest, ForgetStorageHostRequest, ReserveAttachmentRequest,
};
use yakumo_contracts::volume_host::{CreateRequest, ExportRequest, UnexportRequest};
use yakumo_db::Backend;
use yakumo_service::Reconciler;
use yakumo_testing::databases::ALL;
use yakumo_types::{Fault, FaultCode, VolumeId};
use yakumo_workflow::End;

use super::releases::Releases;
use super::storage_hosts::StorageHosts;
use super::stuck::Stuck;
use crate::store;
use crate::testing::{Broken, HOST, World};
use crate::workflows::DELETE_VOLUME;

const ATTACHMENT: &str = "00000000-0000-0000-0000-0000000000aa";
const HOUR: Duration = Duration::from_secs(3600);

fn fence(epoch: u64) -> Option<Fence> {
    Some(Fence {
        workflow_id: Uuid::from_u128(9).to_string(),
        step: "step".into(),
        epoch,
    })
}

fn attachment(epoch: u64) -> AttachmentRequest {
    AttachmentRequest {
        attachment_id: ATTACHMENT.into(),
        fence: fence(epoch),
    }
}

impl World {
    async fn ask_for_file(&self, id: VolumeId) -> Result<(), Fault> {
        let request = CreateRequest {
            volume_id: id.to_string(),
            size_gib: 1,
            fence: fence(1),
        };
        let context = self.app.internal();
        self.host.create(&context, request).await.map(|_| ())
    }

    async fn file(&self, id: VolumeId) {
        self.ask_for_file(id).await.unwrap();
    }

    async fn export(&self, id: VolumeId) {
        let request = ExportRequest {
            volume_id: id.to_string(),
            attachment_id: ATTACHMENT.into(),
            secret: "s".repeat(32),
            fence: fence(5),
        };
        let context = self.app.internal();
        self.host.export(&context, request).await.unwrap();
    }

    /// The volume is in error, and says this.
    async fn assert_in_error(&self, id: VolumeId, why: &str) {
        let row = self.row(id).await.unwrap();
        assert_eq!(row.status, "error");
        assert!(row.fault.contains(why), "{}", row.fault);
    }

    async fn reserve(&self, id: VolumeId) {
        let request = ReserveAttachmentRequest {
            volume_id: id.to_string(),
            attachment_id: ATTACHMENT.into(),
            server_id: Uuid::from_u128(7).to_string(),
            host: HOST.into(),
            device: "/dev/vdb".into(),
            fence: fence(5),
        };
        let context = self.member();
        self.app
            .reserve_attachment(&context, request)
            .await
            .unwrap();
    }

    async fn attach(&self, id: VolumeId) {
        self.reserve(id).await;
        let context = self.member();
        let request = attachment(5);
        self.app
            .connect_attachment(&context, request)
            .await
            .unwrap();
    }

    async fn mark_deleted(&self, id: VolumeId) {
        let now = self.app.env.now();
        self.db()
            .write(move |txn| {
                Box::pin(async move { store::volumes::mark_deleted(txn, id, now).await })
            })
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_is_at_work_on_comes_to_an_end_on_every_database() {
    for backend in ALL {
        let world = World::without_host(backend).await;
        let stuck = Stuck::new(world.app.clone());
        let mut rows = Vec::new();
        for (status, end) in [
            ("creating", "error"),
            ("deleting", "error_deleting"),
            ("reserved", "available"),
            ("attaching", "available"),
            ("detaching", "available"),
            ("available", "available"),
        ] {
            rows.push((world.insert(status).await, status, end));
        }
        stuck.reconcile().await.unwrap();
        for (id, status, _) in &rows {
            assert_eq!(world.status(*id).await, *status, "it is young");
        }
        world.forward(Duration::from_secs(300));
        stuck.reconcile().await.unwrap();
        for (id, status, end) in &rows {
            assert_eq!(world.status(*id).await, *end, "{backend:?}, {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_workflow_or_an_attachment_holds_is_left_alone() {
    let world = World::new().await;
    let attached = world.insert("available").await;
    world.file(attached).await;
    world.attach(attached).await;
    let creating = world.insert("creating").await;
    // It is accepted, and nobody has come to it yet.
    let engine = world.app.engine.clone();
    engine.add(Arc::new(crate::workflows::CreateVolume {
        app: world.app.clone(),
    }));
    let context = world.member();
    world
        .db()
        .write(move |txn| {
            let (engine, context) = (engine.clone(), context.clone());
            Box::pin(async move {
                let (kind, id) = (crate::workflows::CREATE_VOLUME, creating.to_string());
                let input = serde_json::json!({ "volume_id": id });
                engine.submit(txn, kind, &id, input, &context, HOUR).await
            })
        })
        .await
        .unwrap();
    world.forward(HOUR * 3);
    world.hear_host().await;
    Stuck::new(world.app.clone()).reconcile().await.unwrap();
    let hosts = StorageHosts::new(world.app.clone());
    hosts.reconcile().await.unwrap();
    world.forward(HOUR * 3);
    world.hear_host().await;
    hosts.reconcile().await.unwrap();
    assert_eq!(world.status(creating).await, "creating");
    assert_eq!(world.status(attached).await, "attaching");
    let kept = world.kept().await;
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0].attachment_id, ATTACHMENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_exports_that_nobody_knows_of_go_when_they_are_old() {
    let world = World::new().await;
    let exported = world.insert("available").await;
    world.file(exported).await;
    world.export(exported).await;
    let deleted = world.insert("available").await;
    world.file(deleted).await;
    world.mark_deleted(deleted).await;
    let unknown = world.app.env.id();
    world.file(unknown).await;

    let hosts = StorageHosts::new(world.app.clone());
    let look = async |forward: Duration| {
        world.forward(forward);
        world.hear_host().await;
        hosts.reconcile().await.unwrap();
        let kept = world.kept().await;
        let has = |id: VolumeId| kept.iter().any(|kept| kept.volume_id == id.to_string());
        let exports = kept.iter().any(|kept| !kept.attachment_id.is_empty());
        (has(exported), exports, has(deleted), has(unknown))
    };
    assert_eq!(look(Duration::ZERO).await, (true, true, true, true));
    assert_eq!(look(HOUR / 2).await, (true, true, true, true));
    assert_eq!(look(HOUR).await, (true, false, false, true));
    assert_eq!(look(HOUR * 24).await, (true, false, false, true));
    assert_eq!(look(HOUR * 24 * 7).await, (true, false, false, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_finished_when_the_storage_host_is_back() {
    let world = World::without_host(Backend::Sqlite).await;
    let id = world.insert("available").await;
    let context = world.member();
    world.reserve(id).await;
    let release = || world.app.release_attachment(&context, attachment(6));
    release().await.unwrap();
    release().await.unwrap();
    let releases = Releases::new(world.app.clone());
    releases.reconcile().await.unwrap();
    assert_eq!(world.status(id).await, "detaching");
    let shown = world.app.show_volume(&context, &id.to_string()).await;
    assert_eq!(shown.unwrap().attachments[0].status, "detaching");

    // Whoever waits is told, and need not ask again.
    world.forward(Duration::from_secs(300));
    let stuck = Stuck::new(world.app.clone());
    stuck.reconcile().await.unwrap();
    world.assert_in_error(id, "has not ended the export").await;

    world.serve_host().await;
    releases.reconcile().await.unwrap();
    let row = world.row(id).await.unwrap();
    assert_eq!((row.status.as_str(), row.fault.as_str()), ("available", ""));
    assert!(world.attachments(id).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_fails_on_the_storage_host_holds_up_nobody() {
    let world = World::without_host(Backend::Sqlite).await;
    world.serve_host_with(Arc::new(Broken)).await;
    let id = world.insert("available").await;
    // The host knows of the volume, and can do nothing with it.
    world.ask_for_file(id).await.unwrap_err();
    let context = world.member();
    world.reserve(id).await;
    let released = world.app.release_attachment(&context, attachment(6)).await;
    released.unwrap();
    assert_eq!(world.status(id).await, "detaching");
    let releases = Releases::new(world.app.clone());
    releases.reconcile().await.unwrap();
    world.forward(Duration::from_secs(300));
    Stuck::new(world.app.clone()).reconcile().await.unwrap();
    assert_eq!(world.status(id).await, "error");
    releases.reconcile().await.unwrap();
    assert_eq!(world.status(id).await, "error", "it is exported still");
    assert_eq!(world.attachments(id).await.len(), 1);

    // Nor does a deletion that fails change what it is.
    let view = world
        .run(DELETE_VOLUME, id, Duration::from_millis(300))
        .await;
    assert!(matches!(view.end(), Some(End::Failed(_))), "{view:?}");
    world.assert_in_error(id, "has not ended the export").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_its_host_does_not_have_goes_into_error() {
    let world = World::new().await;
    let (lost, held) = (
        world.insert("available").await,
        world.insert("in-use").await,
    );
    let kept = world.insert("available").await;
    world.file(kept).await;
    let hosts = StorageHosts::new(world.app.clone());
    hosts.reconcile().await.unwrap();
    world
        .assert_in_error(lost, "does not have it any more")
        .await;
    assert_eq!(world.status(held).await, "in-use");
    assert_eq!(world.status(kept).await, "available");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_whose_export_is_gone_gets_it_back() {
    let world = World::new().await;
    let id = world.insert("available").await;
    world.file(id).await;
    world.attach(id).await;
    let request = attachment(5);
    let context = world.member();
    world
        .app
        .complete_attachment(&context, request)
        .await
        .unwrap();
    // Detached later, by a control plane that is forgotten now.
    let request = UnexportRequest {
        volume_id: id.to_string(),
        attachment_id: ATTACHMENT.into(),
        fence: fence(90),
    };
    let context = world.app.internal();
    world.host.unexport(&context, request).await.unwrap();
    assert_eq!(world.kept().await[0].attachment_id, "");
    let hosts = StorageHosts::new(world.app.clone());
    for _ in 0..2 {
        hosts.reconcile().await.unwrap();
        assert_eq!(world.kept().await[0].attachment_id, ATTACHMENT);
    }
    assert_eq!(world.status(id).await, "in-use");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_host_is_forgotten_once_it_keeps_nothing() {
    let world = World::new().await;
    let id = world.insert("error").await;
    let forget = async |check_only| {
        let request = ForgetStorageHostRequest {
            host: HOST.into(),
            check_only,
        };
        world.app.forget_storage_host(request).await
    };
    for check_only in [true, false] {
        let fault = forget(check_only).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Conflict);
        let wanted = format!("Host {HOST} still has volumes: 1 ({id}).");
        assert_eq!(fault.message, wanted);
    }
    world.mark_deleted(id).await;
    assert!(forget(true).await.unwrap());
    assert!(forget(false).await.unwrap());
    assert!(!forget(false).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_volumes_are_purged_when_they_are_old_on_every_database() {
    for backend in ALL {
        let world = World::without_host(backend).await;
        let (old, living) = (
            world.insert("available").await,
            world.insert("available").await,
        );
        world.mark_deleted(old).await;
        let purge = async |now| {
            let purged = crate::upkeep::purge(world.db(), now, HOUR).await.unwrap();
            purged[0]
        };
        let now = world.app.env.now();
        assert_eq!(purge(now).await, ("volumes", 0), "{backend:?}");
        assert_eq!(purge(now.plus(HOUR * 2)).await, ("volumes", 1));
        assert_eq!(purge(now.plus(HOUR * 2)).await, ("volumes", 0));
        assert_eq!(world.status(living).await, "available");
        crate::upkeep::restored(world.db()).await.unwrap();
    }
}
