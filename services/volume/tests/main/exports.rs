//! Exports for real: files, storage daemons, and what survives their death.

use std::path::Path;

use yakumo_contracts::volume::{Connection, VolumeRequest};
use yakumo_contracts::volume_host::{ExportRequest, VolumeHostClient};
use yakumo_db::Backend;
use yakumo_host::{Cmd, CommandError, CommandRunner, Output, RealRunner};
use yakumo_rpc::Target;
use yakumo_types::FaultCode;
use yakumo_volume::Driver;

use crate::cloud::{ATTACHMENT, Cloud, HOST, SECOND, SERVER, reserve, step};

crate::on_every_database!(a_volume_has_one_server_and_an_overtaken_worker_cannot_change_that,);

/// What `qemu-io` says of one command to an export.
pub async fn said(connection: &Connection, command: &str) -> Result<Output, CommandError> {
    let target = format!(
        "nbd+unix:///{}?socket={}",
        connection.nbd_export, connection.nbd_socket
    );
    let args = ["-f", "raw", "-c", command, target.as_str()];
    RealRunner::new().execute(&Cmd::new("qemu-io", args)).await
}

async fn qemu_io(connection: &Connection, command: &str) -> bool {
    said(connection, command)
        .await
        .is_ok_and(|output| output.success() && !output.text().contains("failed"))
}

/// The process that serves the attachment's export.
pub fn daemon(folder: &Path) -> i32 {
    let name = format!("run/{}.pid", ATTACHMENT.replace('-', ""));
    std::fs::read_to_string(folder.join(name))
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_survives_detaching_and_the_daemons_death() {
    let cloud = Cloud::start(Driver::File).await;
    let ctx = cloud.member(1);
    let id = cloud.available(&ctx, "data").await;
    cloud
        .volumes
        .reserve_attachment(&ctx, reserve(&id, ATTACHMENT, 1))
        .await
        .unwrap();
    let connection = cloud
        .volumes
        .connect_attachment(&ctx, step(ATTACHMENT, 1))
        .await
        .unwrap();
    cloud
        .volumes
        .complete_attachment(&ctx, step(ATTACHMENT, 1))
        .await
        .unwrap();
    let shown = cloud.show(&ctx, &id).await.unwrap();
    assert_eq!(
        (shown.status.as_str(), shown.attachments.len()),
        ("in-use", 1)
    );
    assert!(qemu_io(&connection, "write -P 0x5a 0 1M").await);

    // The daemon crashes; the agent starts the same export again.
    let first = daemon(cloud.folder.path());
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(first),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    cloud
        .settled(|| async { qemu_io(&connection, "read -P 0x5a 0 1M").await })
        .await;
    assert_ne!(daemon(cloud.folder.path()), first);

    // Deleting what is in use is refused.
    let refused = cloud
        .volumes
        .delete_volume(&ctx, VolumeRequest { id: id.clone() })
        .await
        .unwrap_err();
    assert_eq!(refused.code, FaultCode::Invalid);

    cloud
        .volumes
        .begin_detach(&ctx, step(ATTACHMENT, 2))
        .await
        .unwrap();
    cloud
        .volumes
        .release_attachment(&ctx, step(ATTACHMENT, 2))
        .await
        .unwrap();
    cloud
        .volumes
        .release_attachment(&ctx, step(ATTACHMENT, 2))
        .await
        .unwrap();
    assert!(!Path::new(&connection.nbd_socket).exists());
    assert!(!qemu_io(&connection, "read 0 512").await);
    assert_eq!(cloud.show(&ctx, &id).await.unwrap().status, "available");

    // Attached once more, it holds what was written.
    cloud
        .volumes
        .reserve_attachment(&ctx, reserve(&id, SECOND, 3))
        .await
        .unwrap();
    let again = cloud
        .volumes
        .connect_attachment(&ctx, step(SECOND, 3))
        .await
        .unwrap();
    assert_ne!(again.nbd_export, connection.nbd_export);
    assert!(qemu_io(&again, "read -P 0x5a 0 1M").await);
    cloud
        .volumes
        .release_attachment(&ctx, step(SECOND, 4))
        .await
        .unwrap();
    cloud
        .volumes
        .delete_volume(&ctx, VolumeRequest { id: id.clone() })
        .await
        .unwrap();
    cloud
        .settled(|| async { cloud.show(&ctx, &id).await.is_err() })
        .await;
    for folder in ["volume/volumes", "volume/records", "run"] {
        let left: Vec<_> = std::fs::read_dir(cloud.folder.path().join(folder))
            .unwrap()
            .collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
}

async fn a_volume_has_one_server_and_an_overtaken_worker_cannot_change_that(backend: Backend) {
    let cloud = Cloud::on(backend, Driver::Simulated).await;
    let ctx = cloud.member(1);
    let id = cloud.available(&ctx, "data").await;
    cloud
        .volumes
        .reserve_attachment(&ctx, reserve(&id, ATTACHMENT, 1))
        .await
        .unwrap();
    cloud
        .volumes
        .reserve_attachment(&ctx, reserve(&id, ATTACHMENT, 1))
        .await
        .unwrap();
    let refused = cloud
        .volumes
        .reserve_attachment(&ctx, reserve(&id, SECOND, 1))
        .await
        .unwrap_err();
    assert_eq!(refused.code, FaultCode::Conflict);
    let stranger = cloud
        .volumes
        .connect_attachment(&cloud.member(2), step(ATTACHMENT, 1))
        .await
        .unwrap_err();
    assert_eq!(stranger.code, FaultCode::NotFound);

    cloud
        .volumes
        .connect_attachment(&ctx, step(ATTACHMENT, 5))
        .await
        .unwrap();
    let stale = cloud
        .volumes
        .connect_attachment(&ctx, step(ATTACHMENT, 4))
        .await
        .unwrap_err();
    assert_eq!(stale.code, FaultCode::Stale);
    cloud
        .volumes
        .release_attachment(&ctx, step(ATTACHMENT, 6))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_cannot_command_another_hosts_storage() {
    let cloud = Cloud::start(Driver::Simulated).await;
    let other = cloud.bus.as_host("node-2");
    let ctx = yakumo_types::RequestContext::host(cloud.process.env.id());
    let client = VolumeHostClient::new(other, Target::host(HOST));
    let request = ExportRequest {
        volume_id: SERVER.into(),
        attachment_id: ATTACHMENT.into(),
        ..Default::default()
    };
    assert_eq!(
        client.export(&ctx, request).await.unwrap_err().code,
        FaultCode::Forbidden
    );
}
