//! Volumes as qcow2 files, each exported by a storage daemon of its own.
//!
//! A QEMU storage daemon serves one volume to one attachment over NBD on a
//! unix socket, straight into the guest's QEMU. It is a process of its own
//! and no child of ours: the volume service may be killed and replaced while
//! guests write. Ending the daemon ends the export; there is no state in
//! between, and a daemon that crashed is started again with the same socket
//! and name, which the guest's QEMU reconnects to.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use yakumo_host::{Cmd, CommandRunner};
use yakumo_types::{AttachmentId, Env, Fault, VolumeId};

use super::{Export, Space, VolumeDriver, no_room};

const GIB: u64 = 1 << 30;
/// How long a daemon may take to write its buffers and go.
const STOP_BOUND: Duration = Duration::from_secs(10);
const STOP_POLL: Duration = Duration::from_millis(20);

/// Keeps volumes as files below a folder.
pub struct FileDriver {
    env: Env,
    runner: Arc<dyn CommandRunner>,
    volumes: PathBuf,
    run: PathBuf,
}

impl FileDriver {
    /// Files go to `data_dir/volumes`, sockets and pid files to `run_dir`.
    pub async fn new(
        env: Env,
        runner: Arc<dyn CommandRunner>,
        data_dir: &Path,
        run_dir: &Path,
    ) -> std::io::Result<Self> {
        let volumes = data_dir.join("volumes");
        for folder in [&volumes, &run_dir.to_path_buf()] {
            tokio::fs::create_dir_all(folder).await?;
        }
        Ok(Self {
            env,
            runner,
            volumes,
            run: run_dir.to_path_buf(),
        })
    }

    fn file(&self, volume: VolumeId) -> PathBuf {
        self.volumes.join(format!("{volume}.qcow2"))
    }

    fn socket(&self, attachment: AttachmentId) -> PathBuf {
        self.run.join(format!("{}.sock", attachment.simple()))
    }

    fn pid_file(&self, attachment: AttachmentId) -> PathBuf {
        self.run.join(format!("{}.pid", attachment.simple()))
    }

    async fn sync_folder(&self) -> Result<(), Fault> {
        sync(&self.volumes)
            .await
            .map_err(|error| io_fault("store", &error))
    }

    async fn command(&self, program: &str, args: Vec<String>) -> Result<(), Fault> {
        let Err(error) = self.runner.run(Cmd::new(program, args)).await else {
            return Ok(());
        };
        tracing::error!(program, %error, complaint = error.complaint(), "storage command failed");
        if error.complaint().contains("No space left") {
            return Err(no_room());
        }
        Err(Fault::unavailable(
            "The storage host could not do this; its log says why.",
        ))
    }

    /// The daemon of this attachment, if it runs. The process must name the
    /// socket on its command line: a pid file alone may be older than a reboot.
    async fn daemon(&self, attachment: AttachmentId) -> Option<Pid> {
        let text = tokio::fs::read_to_string(self.pid_file(attachment))
            .await
            .ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        let command_line = tokio::fs::read(format!("/proc/{pid}/cmdline")).await.ok()?;
        let marker = self.socket(attachment);
        let marker = marker.as_os_str().as_encoded_bytes();
        command_line
            .windows(marker.len())
            .any(|window| window == marker)
            .then(|| Pid::from_raw(pid))
    }
}

#[async_trait::async_trait]
impl VolumeDriver for FileDriver {
    async fn create(&self, volume: VolumeId, size_gib: u64) -> Result<(), Fault> {
        let file = self.file(volume);
        if tokio::fs::try_exists(&file).await.unwrap_or(false) {
            return Ok(());
        }
        let space = self.space().await?;
        if space.free_gib == 0 {
            return Err(no_room());
        }
        // A file that was half made before a crash never gets the final name.
        let partial = file.with_extension("partial");
        let args = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "lazy_refcounts=off,preallocation=off",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([partial.display().to_string(), (size_gib * GIB).to_string()])
        .collect::<Vec<_>>();
        self.command("qemu-img", args).await?;
        // The content before the name: after a power cut, what has the name is
        // a volume.
        sync(&partial)
            .await
            .map_err(|error| io_fault("make", &error))?;
        tokio::fs::rename(&partial, &file)
            .await
            .map_err(|error| io_fault("make", &error))?;
        self.sync_folder().await
    }

    async fn delete(&self, volume: VolumeId) -> Result<(), Fault> {
        for file in [
            self.file(volume),
            self.file(volume).with_extension("partial"),
        ] {
            match tokio::fs::remove_file(&file).await {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_fault("remove", &error)),
            }
        }
        self.sync_folder().await
    }

    async fn export(&self, volume: VolumeId, export: &Export) -> Result<PathBuf, Fault> {
        let socket = self.socket(export.attachment_id);
        if self.daemon(export.attachment_id).await.is_some() {
            return Ok(socket);
        }
        let file = self.file(volume);
        if !tokio::fs::try_exists(&file).await.unwrap_or(false) {
            return Err(Fault::not_found(format!(
                "This host does not keep volume {volume}."
            )));
        }
        // Left by a daemon that crashed; nobody listens there any more.
        let _ = tokio::fs::remove_file(&socket).await;
        let args = vec![
            "--daemonize".to_owned(),
            "--pidfile".to_owned(),
            self.pid_file(export.attachment_id).display().to_string(),
            "--blockdev".to_owned(),
            format!(
                "driver=file,node-name=file,discard=unmap,filename={}",
                comma_escaped(&file)
            ),
            "--blockdev".to_owned(),
            "driver=qcow2,node-name=volume,discard=unmap,file=file".to_owned(),
            "--nbd-server".to_owned(),
            format!(
                "addr.type=unix,addr.path={},max-connections=2",
                comma_escaped(&socket)
            ),
            "--export".to_owned(),
            format!(
                "type=nbd,id=export,node-name=volume,name={},writable=on",
                export.secret
            ),
        ];
        self.command("qemu-storage-daemon", args).await?;
        Ok(socket)
    }

    async fn unexport(&self, _volume: VolumeId, attachment: AttachmentId) -> Result<(), Fault> {
        let began = self.env.clock.monotonic();
        let mut signal = Signal::SIGTERM;
        while let Some(pid) = self.daemon(attachment).await {
            let waited = self.env.clock.monotonic().saturating_sub(began);
            if waited > STOP_BOUND * 2 {
                return Err(Fault::unavailable("The export of the volume does not end."));
            }
            if waited > STOP_BOUND {
                // The guest let go long ago, and what it wrote is in the
                // kernel's hands: nothing is lost by insisting.
                signal = Signal::SIGKILL;
            }
            let _ = kill(pid, signal);
            self.env.clock.sleep(STOP_POLL).await;
        }
        for file in [self.pid_file(attachment), self.socket(attachment)] {
            let _ = tokio::fs::remove_file(file).await;
        }
        Ok(())
    }

    async fn is_exported(&self, _volume: VolumeId, attachment: AttachmentId) -> bool {
        self.daemon(attachment).await.is_some()
    }

    async fn space(&self) -> Result<Space, Fault> {
        let folder = self.volumes.clone();
        let stat = tokio::task::spawn_blocking(move || nix::sys::statvfs::statvfs(&folder))
            .await
            .map_err(|_| Fault::internal("The storage host could not measure its disk."))?
            .map_err(|error| io_fault("measure", &std::io::Error::from(error)))?;
        let block = stat.fragment_size();
        Ok(Space {
            free_gib: stat.blocks_available().saturating_mul(block) / GIB,
            total_gib: stat.blocks().saturating_mul(block) / GIB,
        })
    }
}

fn io_fault(what: &str, error: &std::io::Error) -> Fault {
    tracing::error!(%error, "could not {what} a volume's file");
    if error.kind() == std::io::ErrorKind::StorageFull {
        return no_room();
    }
    Fault::unavailable(format!("The storage host could not {what} the volume."))
}

/// Brings a file's or a folder's content to the disk.
async fn sync(path: &Path) -> std::io::Result<()> {
    tokio::fs::File::open(path).await?.sync_all().await
}

/// QEMU's option lists double a comma that is part of a value.
fn comma_escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
