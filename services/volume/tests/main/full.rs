//! A storage host whose disk is full.

use anyhow::{Result, ensure};
use nix::mount::{MsFlags, mount};
use yakumo_contracts::volume::{Connection, QuotaRequest, VolumeRequest};
use yakumo_db::Backend;
use yakumo_host::{Cmd, CommandRunner, RealRunner};
use yakumo_testing::disks::SmallDisk;
use yakumo_types::RequestContext;
use yakumo_volume::Driver;

use crate::cloud::{ATTACHMENT, Cloud, SECOND, reserve, step};
use crate::exports::{daemon, said};

async fn remove(cloud: &Cloud, ctx: &RequestContext, id: &str) {
    let request = VolumeRequest { id: id.to_owned() };
    cloud.volumes.delete_volume(ctx, request).await.unwrap();
    cloud
        .settled(|| async { cloud.show(ctx, id).await.is_err() })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_finds_no_room_fails_with_a_cause_and_removing_makes_room() {
    // By its blocks there is room for volumes; what runs out is files, of which
    // each volume needs a few.
    let disk = SmallDisk::with_files(2 << 20, 100).unwrap();
    let data_dir = Some(disk.path().to_owned());
    let cloud = Cloud::in_folder(Backend::Sqlite, Driver::File, data_dir).await;
    let ctx = cloud.member(1);
    let kept = cloud.available(&ctx, "kept").await;
    let old = cloud.available(&ctx, "old").await;

    disk.fill_with_files().unwrap();
    let failed = cloud.create(&ctx, "failed").await.unwrap().id;
    cloud.reaches(&ctx, &failed, "error").await;
    let shown = cloud.show(&ctx, &failed).await.unwrap();
    assert!(shown.fault.contains("no room left"), "{shown:?}");

    // What is on a full disk can be removed, and so can what never came there.
    remove(&cloud, &ctx, &old).await;
    remove(&cloud, &ctx, &failed).await;
    let quota = cloud.volumes.get_quota(&ctx, QuotaRequest::default());
    let quota = quota.await.unwrap();
    assert_eq!((quota.volumes_used, quota.gigabytes_used), (1, 1));

    disk.remove_files().unwrap();
    cloud.available(&ctx, "new").await;
    let kept = cloud.show(&ctx, &kept).await.unwrap();
    assert_eq!(kept.status, "available");
}

/// Attaches the volume to a server, in a claim of this epoch.
async fn attach(
    cloud: &Cloud,
    ctx: &RequestContext,
    id: &str,
    (attachment, epoch): (&str, u64),
) -> Result<Connection> {
    let client = &cloud.volumes;
    let taken = reserve(id, attachment, epoch);
    client.reserve_attachment(ctx, taken).await?;
    let connection = client.connect_attachment(ctx, step(attachment, epoch));
    let connection = connection.await?;
    let complete = step(attachment, epoch);
    client.complete_attachment(ctx, complete).await?;
    Ok(connection)
}

/// Makes the disk as large as this. To fill it up would take that much memory.
fn resize(disk: &SmallDisk, kib: u64) -> Result<()> {
    mount(
        None::<&str>,
        disk.path(),
        None::<&str>,
        MsFlags::MS_REMOUNT | MsFlags::MS_NODEV | MsFlags::MS_NOSUID,
        Some(format!("size={kib}k").as_str()),
    )?;
    Ok(())
}

/// A command for one MiB of a volume; each has other bytes.
fn piece(verb: &str, number: u32) -> String {
    format!("{verb} -P {} {number}M 1M", number + 1)
}

/// Whether the first MiB of the volume are as they were written.
async fn are_kept(connection: &Connection, count: u32) -> Result<()> {
    for number in 0..count {
        let read = said(connection, &piece("read", number)).await?;
        ensure!(read.success(), "MiB {number} of {count}: {read:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_can_be_let_go_on_a_full_disk() -> Result<()> {
    const WHOLE: u64 = 2 << 20;
    let disk = SmallDisk::new(WHOLE)?;
    let data_dir = Some(disk.path().to_owned());
    let cloud = Cloud::in_folder(Backend::Sqlite, Driver::File, data_dir).await;
    let (ctx, client) = (cloud.member(1), &cloud.volumes);
    let id = cloud.available(&ctx, "data").await;
    let kept = disk.path().join("volume/reserve");
    for (attachment, epoch) in [(ATTACHMENT, 1), (SECOND, 3)] {
        resize(&disk, WHOLE)?;
        // It comes back when there is room again.
        cloud.settled(|| async { kept.exists() }).await;
        let connection = attach(&cloud, &ctx, &id, (attachment, epoch)).await?;
        resize(&disk, 4 << 10)?;
        let all = format!("write -P {epoch} 0 32M");
        let written = said(&connection, &all).await?;
        ensure!(written.text().contains("No space left"), "{written:?}");
        // To the last byte, which is also what the agent's own files find.
        let rest = disk.path().join("rest");
        let filled = std::fs::write(&rest, vec![1; 8 << 20]);
        ensure!(filled.is_err(), "there was room");

        let begin = step(attachment, epoch + 1);
        client.begin_detach(&ctx, begin).await?;
        let release = step(attachment, epoch + 1);
        client.release_attachment(&ctx, release).await?;
        let shown = cloud.show(&ctx, &id).await?;
        ensure!(shown.status == "available", "{shown:?}");
        std::fs::remove_file(rest)?;
    }
    remove(&cloud, &ctx, &id).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_finds_no_room_is_refused_and_what_was_written_stays() -> Result<()> {
    const WHOLE: u64 = 2 << 20;
    let disk = SmallDisk::new(WHOLE)?;
    let data_dir = Some(disk.path().to_owned());
    let cloud = Cloud::in_folder(Backend::Sqlite, Driver::File, data_dir).await;
    let (ctx, client) = (cloud.member(1), &cloud.volumes);
    let id = cloud.available(&ctx, "data").await;
    let connection = attach(&cloud, &ctx, &id, (ATTACHMENT, 1)).await?;
    let serves = daemon(disk.path());

    resize(&disk, 8 << 10)?;
    let mut count = 0;
    let refused = loop {
        ensure!(count < 8, "a disk of 8 MiB took {count}");
        let written = said(&connection, &piece("write", count)).await?;
        if !written.success() {
            break written;
        }
        count += 1;
    };
    ensure!(count > 0, "{refused:?}");
    let told = refused.text();
    ensure!(told.contains("No space left on device"), "{refused:?}");

    // The export goes on, and so does what needs no more room.
    are_kept(&connection, count).await?;
    let again = said(&connection, &piece("write", 0)).await?;
    ensure!(again.success(), "{again:?}");
    let still = said(&connection, &piece("write", count)).await?;
    ensure!(
        still.text().contains("No space left on device"),
        "{still:?}"
    );
    ensure!(daemon(disk.path()) == serves, "the daemon was replaced");
    let shown = cloud.show(&ctx, &id).await?;
    ensure!(
        shown.status == "in-use" && shown.fault.is_empty(),
        "{shown:?}"
    );

    // There is no room for another volume, which says so.
    let other = cloud.create(&ctx, "other").await?.id;
    cloud.reaches(&ctx, &other, "error").await;
    let other = cloud.show(&ctx, &other).await?;
    ensure!(other.fault.contains("room"), "{other:?}");

    resize(&disk, WHOLE)?;
    let written = said(&connection, &piece("write", count)).await?;
    ensure!(written.success(), "{written:?}");
    are_kept(&connection, count + 1).await?;
    ensure!(daemon(disk.path()) == serves, "the daemon was replaced");
    remove(&cloud, &ctx, &other.id).await;

    // It is in the file, which is whole, and not only in the daemon.
    client.begin_detach(&ctx, step(ATTACHMENT, 2)).await?;
    let release = step(ATTACHMENT, 2);
    client.release_attachment(&ctx, release).await?;
    let shown = cloud.show(&ctx, &id).await?;
    ensure!(shown.status == "available", "{shown:?}");
    let file = format!("volume/volumes/{id}.qcow2");
    let file = disk.path().join(file).display().to_string();
    let check = Cmd::new("qemu-img", ["check".to_owned(), file]);
    let check = RealRunner::new().execute(&check).await?;
    // 3: some of the file is used by nothing, which harms nobody.
    ensure!(matches!(check.status, Some(0 | 3)), "{check:?}");
    let taken = reserve(&id, SECOND, 3);
    client.reserve_attachment(&ctx, taken).await?;
    let connection = client.connect_attachment(&ctx, step(SECOND, 3)).await?;
    are_kept(&connection, count + 1).await?;
    let release = step(SECOND, 4);
    client.release_attachment(&ctx, release).await?;
    Ok(())
}
