//! A guest's files: one folder with its disk, its config drive and its console
//! log. Whatever takes time to make appears under its name only when it is
//! whole and flushed, so a crash leaves nothing half-made in its place.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use yakumo_host::disk::{DiskError, create_overlay, disk_info};
use yakumo_host::{Cmd, CommandError, CommandRunner};
use yakumo_types::ServerId;

use crate::drivers::DriverError;

/// Programs that write an ISO 9660 file system, and what comes before the
/// options that they share.
const ISO_WRITERS: [(&str, &[&str]); 3] = [
    ("genisoimage", &[]),
    ("mkisofs", &[]),
    ("xorriso", &["-as", "mkisofs"]),
];

/// Where the guests' files are; a cheap handle.
#[derive(Clone)]
pub(super) struct GuestFiles {
    folder: Arc<Path>,
    /// Where libvirt keeps the logs of QEMUs.
    logs: Arc<Path>,
    runner: Arc<dyn CommandRunner>,
}

impl GuestFiles {
    /// Files in `folder`, which is there already; libvirt writes the logs of
    /// QEMUs to `logs`.
    pub(super) fn new(folder: &Path, logs: &Path, runner: Arc<dyn CommandRunner>) -> Self {
        Self {
            folder: folder.into(),
            logs: logs.into(),
            runner,
        }
    }

    fn guest(&self, server: ServerId) -> PathBuf {
        self.folder.join(server.to_string())
    }

    pub(super) fn disk(&self, server: ServerId) -> PathBuf {
        self.guest(server).join("disk.qcow2")
    }

    pub(super) fn config_drive(&self, server: ServerId) -> PathBuf {
        self.guest(server).join("config.iso")
    }

    pub(super) fn console_log(&self, server: ServerId) -> PathBuf {
        self.guest(server).join("console.log")
    }

    /// Makes the guest's folder; fine when it is there.
    pub(super) async fn prepare(&self, server: ServerId) -> Result<(), DriverError> {
        let folder = self.guest(server);
        blocking(move || make_folder(&folder)).await
    }

    pub(super) async fn has_disk(&self, server: ServerId) -> Result<bool, DriverError> {
        let path = self.disk(server);
        blocking(move || path.try_exists()).await
    }

    pub(super) async fn has_config_drive(&self, server: ServerId) -> Result<bool, DriverError> {
        let path = self.config_drive(server);
        blocking(move || path.try_exists()).await
    }

    /// Makes the guest's disk: a layer above `base`, of `disk_gib`, or as
    /// large as the image if that is zero.
    pub(super) async fn make_disk(
        &self,
        server: ServerId,
        base: &Path,
        format: &str,
        disk_gib: u64,
    ) -> Result<(), DriverError> {
        let info =
            disk_info(&*self.runner, base, Some(format))
                .await
                .map_err(|error| match error {
                    // What qemu-img cannot read, it will not be able to read later.
                    DiskError::Command(CommandError::Failed { .. }) | DiskError::Answer(_) => {
                        DriverError::never("The image cannot be read; it may be damaged.", error)
                    }
                    DiskError::Command(_) => {
                        DriverError::later("The image could not be looked at.", error)
                    }
                })?;
        if info.backing_filename.is_some() || info.data_file().is_some() {
            return Err(DriverError::refused(
                "The image refers to another file; it cannot be used.",
            ));
        }
        let size = disk_gib.saturating_mul(1 << 30);
        if disk_gib > 0 && info.virtual_size > size {
            let needed = info.virtual_size.div_ceil(1 << 30);
            return Err(DriverError::refused(format!(
                "The flavor's disk of {disk_gib} GiB is too small for the image, which needs {needed} GiB."
            )));
        }
        let path = self.disk(server);
        let beside = path.with_extension("new");
        let wanted = (disk_gib > 0).then_some(size);
        remove_if_there(&beside).await?;
        create_overlay(&*self.runner, &beside, base, format, wanted)
            .await
            .map_err(|error| DriverError::later("The server's disk could not be made.", error))?;
        blocking(move || publish(&beside, &path)).await
    }

    /// Writes the config drive: an ISO 9660 file system with the label that
    /// guests look for.
    pub(super) async fn make_config_drive(
        &self,
        server: ServerId,
        files: &HashMap<String, Vec<u8>>,
    ) -> Result<(), DriverError> {
        let path = self.config_drive(server);
        let beside = path.with_extension("new");
        let content = self.guest(server).join("config.d");
        let tree = content.clone();
        let files = files.clone();
        blocking(move || write_tree(&tree, &files)).await?;
        remove_if_there(&beside).await?;
        self.write_iso(&beside, &content).await?;
        blocking(move || {
            publish(&beside, &path)?;
            fs::remove_dir_all(&content)
        })
        .await
    }

    async fn write_iso(&self, path: &Path, content: &Path) -> Result<(), DriverError> {
        let shared = [
            "-quiet",
            "-V",
            "config-2",
            "-J",
            "-r",
            "-l",
            "-allow-lowercase",
            "-allow-multidot",
            "-ldots",
            "-o",
        ];
        for (program, before) in ISO_WRITERS {
            let mut args: Vec<String> = before.iter().map(|word| (*word).to_owned()).collect();
            for option in shared {
                // xorriso takes names as they are, and does not know these.
                if program == "xorriso" && (option.starts_with("-allow") || option == "-ldots") {
                    continue;
                }
                args.push(option.to_owned());
            }
            args.push(path.display().to_string());
            args.push(content.display().to_string());
            let cmd = Cmd::new(program, args).timeout(Duration::from_secs(60));
            match self.runner.run(cmd).await {
                Ok(_) => return Ok(()),
                Err(CommandError::Start { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(DriverError::later(
                        "The config drive could not be written.",
                        error,
                    ));
                }
            }
        }
        Err(DriverError::not_yet(
            "The host has no program that writes config drives.",
        ))
    }

    /// Removes everything of the guest, also what libvirt logged of its QEMU,
    /// which must have ended; fine when nothing is there.
    pub(super) async fn remove(
        &self,
        server: ServerId,
        domain_name: &str,
    ) -> Result<(), DriverError> {
        let folder = self.guest(server);
        let logs = Arc::clone(&self.logs);
        let log = format!("{domain_name}.log");
        blocking(move || {
            remove_logs(&logs, &log)?;
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            }
        })
        .await
    }

    /// The end of the console log: at most `bytes` of the present file and,
    /// where that is short, of the one that virtlogd put aside before.
    pub(super) async fn console_tail(
        &self,
        server: ServerId,
        bytes: usize,
    ) -> Result<Vec<u8>, DriverError> {
        let path = self.console_log(server);
        blocking(move || {
            let newest = tail(&path, bytes)?;
            let room = bytes.saturating_sub(newest.len());
            if room == 0 {
                return Ok(newest);
            }
            let mut older = path.into_os_string();
            older.push(".0");
            let mut text = tail(Path::new(&older), room)?;
            text.extend(newest);
            Ok(text)
        })
        .await
    }
}

/// Removes a log and those that virtlogd put aside (`log.0`, `log.1`, …).
fn remove_logs(folder: &Path, log: &str) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(log));
        if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

async fn remove_if_there(path: &Path) -> Result<(), DriverError> {
    let path = path.to_owned();
    blocking(move || match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    })
    .await
}

/// Makes a folder, and those above it, that QEMU's user may pass through.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)
}

/// Gives a finished file its name.
fn publish(beside: &Path, path: &Path) -> io::Result<()> {
    File::open(beside)?.sync_all()?;
    fs::rename(beside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn write_tree(folder: &Path, files: &HashMap<String, Vec<u8>>) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // User data is in there: for the agent's eyes only.
    fs::DirBuilder::new().mode(0o700).create(folder)?;
    for (name, content) in files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

fn tail(path: &Path, bytes: usize) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let start = file.metadata()?.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    Ok(text)
}

/// Whether files here can be opened past the kernel's cache.
pub(super) fn takes_direct_io(folder: &Path) -> bool {
    let path = folder.join(".direct-io");
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    // It was only there to be opened.
    let _ = fs::remove_file(&path);
    opened.is_ok()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, DriverError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let fault = if error.kind() == io::ErrorKind::StorageFull {
                "The host's disk is full."
            } else {
                "The server's files could not be used."
            };
            Err(DriverError::later(fault, error))
        }
        Err(error) => Err(DriverError::later("The host is stopping.", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yakumo_host::{FakeRunner, Output, RealRunner};

    fn files(folder: &Path, runner: impl CommandRunner + 'static) -> GuestFiles {
        GuestFiles::new(folder, &folder.join("logs"), Arc::new(runner))
    }

    fn server() -> ServerId {
        ServerId::from_uuid(uuid::Uuid::from_u128(1))
    }

    #[tokio::test]
    async fn an_image_that_does_not_fit_or_points_elsewhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (answer, fault) in [
            (
                r#"{"format":"qcow2","virtual-size":2147483649}"#,
                "The flavor's disk of 2 GiB is too small for the image, which needs 3 GiB.",
            ),
            (
                r#"{"format":"qcow2","virtual-size":1,"backing-filename":"/etc/shadow"}"#,
                "The image refers to another file; it cannot be used.",
            ),
        ] {
            let runner = FakeRunner::answering(move |_| Ok(Output::of(answer)));
            let files = files(folder.path(), runner);
            let error = files
                .make_disk(server(), Path::new("/images/a"), "qcow2", 2)
                .await
                .unwrap_err();
            assert_eq!(error.fault, fault);
            assert_eq!(error.retry, crate::drivers::Retry::Never);
        }
    }

    #[tokio::test]
    async fn a_config_drive_holds_its_files_under_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path(), RealRunner::new());
        files.prepare(server()).await.unwrap();
        let content = HashMap::from([
            (
                "openstack/latest/meta_data.json".to_owned(),
                b"{\"uuid\": \"1\"}".to_vec(),
            ),
            ("ec2/2009-04-04/meta-data.json".to_owned(), b"{}".to_vec()),
        ]);
        files.make_config_drive(server(), &content).await.unwrap();
        files.make_config_drive(server(), &content).await.unwrap();
        let iso = fs::read(files.config_drive(server())).unwrap();
        let holds = |text: &[u8]| iso.windows(text.len()).any(|window| window == text);
        assert!(holds(b"config-2") && holds(b"meta_data.json") && holds(b"{\"uuid\": \"1\"}"));
        // Nothing else is left in the folder.
        assert_eq!(
            fs::read_dir(folder.path().join(server().to_string()))
                .unwrap()
                .count(),
            1
        );
        files.remove(server(), "a").await.unwrap();
        files.remove(server(), "a").await.unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn the_logs_of_its_qemu_go_with_a_guest_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path(), FakeRunner::new());
        let logs = folder.path().join("logs");
        fs::create_dir(&logs).unwrap();
        for name in ["yk-1.log", "yk-1.log.0", "yk-1.log.1", "yk-12.log", "b.log"] {
            fs::write(logs.join(name), "said\n").unwrap();
        }
        files.remove(server(), "yk-1").await.unwrap();
        let mut left: Vec<_> = fs::read_dir(&logs)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["b.log", "yk-12.log"]);
    }

    #[tokio::test]
    async fn the_tail_of_a_log_spans_the_file_that_was_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path(), FakeRunner::new());
        files.prepare(server()).await.unwrap();
        let log = files.console_log(server());
        assert!(files.console_tail(server(), 10).await.unwrap().is_empty());
        fs::write(log.with_extension("log.0"), "older|").unwrap();
        fs::write(&log, "newer").unwrap();
        assert_eq!(files.console_tail(server(), 4).await.unwrap(), b"ewer");
        assert_eq!(files.console_tail(server(), 8).await.unwrap(), b"er|newer");
    }
}
