//! Boots the guest image under QEMU's software emulation, as a `pc` with a
//! metadata service and beside it as a `q35` with a config drive, and looks at
//! everything that Yakumo relies on in it: ssh by the key, the name, user data,
//! a hot-plugged disk, files that survive a hard reset, the power button.
//!
//! The network is QEMU's own user-mode one, so nothing of the machine's is
//! touched.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::paths::Paths;
use crate::run::{self, Run};
use crate::ui::{self, Step};

/// Software emulation on a busy machine is slow; a guest is up in some ten
/// seconds on an idle one.
const PATIENCE: Duration = Duration::from_secs(120);

/// Boots the image twice and checks it.
pub fn check(paths: &Paths, image: &Path) -> Result<()> {
    let work = paths.target.join("guest/check");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let key = work.join("key");
    Run::new(
        "ssh-keygen",
        ["-q", "-t", "ed25519", "-N", "", "-C", "guest check", "-f"]
            .map(std::ffi::OsStr::new)
            .into_iter()
            .chain([key.as_os_str()]),
    )
    .done()?;
    // Emulated, each has one core's worth of work.
    ui::step("booting the guest image as a pc and as a q35", |step| {
        thread::scope(|scope| {
            let check = |machine, source| {
                let folder = work.join(machine);
                let key = &key;
                move || {
                    fs::create_dir_all(&folder)?;
                    check_machine(machine, source, image, &folder, key, step)
                        .with_context(|| format!("as a {machine}"))
                }
            };
            let pc = scope.spawn(check("pc", Source::Service));
            let q35 = check("q35", Source::ConfigDrive)();
            let Ok(pc) = pc.join() else {
                bail!("the check as a pc panicked");
            };
            pc.and(q35)
        })
    })?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Service,
    ConfigDrive,
}

fn documents(key: &Path) -> Result<(String, String)> {
    let public = fs::read_to_string(key.with_extension("pub"))?;
    let meta_data = json!({
        "uuid": "6f70656e-7374-4163-8b00-000000000001",
        "hostname": "first.novalocal",
        "name": "first",
        "public_keys": {"mine": public},
        "keys": [{"name": "mine", "type": "ssh", "data": public}],
    });
    let user_data = "#!/bin/sh\necho ran >>/root/user-data-ran\n".to_owned();
    Ok((meta_data.to_string(), user_data))
}

fn check_machine(
    machine: &str,
    source: Source,
    image: &Path,
    folder: &Path,
    key: &Path,
    step: &Step,
) -> Result<()> {
    let disk = folder.join("disk.qcow2");
    Run::new(
        "qemu-img",
        ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]
            .map(std::ffi::OsStr::new)
            .into_iter()
            .chain([image.as_os_str(), disk.as_os_str(), "1G".as_ref()]),
    )
    .done()?;
    let extra = folder.join("extra.img");
    fs::File::create(&extra)?.set_len(16 << 20)?;
    let (meta_data, user_data) = documents(key)?;
    let service = match source {
        Source::Service => Some(MetadataService::start(meta_data, user_data)?),
        Source::ConfigDrive => {
            let tree = folder.join("drive/openstack/latest");
            fs::create_dir_all(&tree)?;
            fs::write(tree.join("meta_data.json"), meta_data)?;
            fs::write(tree.join("user_data"), user_data)?;
            Run::new(
                "genisoimage",
                ["-quiet", "-V", "config-2", "-J", "-r", "-o"]
                    .map(std::ffi::OsStr::new)
                    .into_iter()
                    .chain([
                        folder.join("drive.iso").as_os_str(),
                        folder.join("drive").as_os_str(),
                    ]),
            )
            .done()?;
            None
        }
    };
    let mut guest = Guest::start(
        machine,
        folder,
        &disk,
        service.as_ref().map(|service| service.port),
        key,
    )?;
    let started = Instant::now();
    guest.wait_for_ssh(step)?;
    let ready = started.elapsed();
    step.detail(&format!("{machine}: ssh after {}", ui::seconds(ready)));
    ensure!(
        guest.ssh("hostname")? == "first",
        "the guest did not take its name"
    );
    ensure!(
        guest.ssh_as("yakumo", "id -u")? == "0",
        "the user yakumo is not let in"
    );
    guest.until("user data to run", "cat /root/user-data-ran", "ran")?;

    guest.qmp("blockdev-add", json!({"driver": "raw", "node-name": "extra", "file": {"driver": "file", "filename": extra}}))?;
    let mut device =
        json!({"driver": "virtio-blk-pci", "drive": "extra", "id": "extra", "serial": "volume-1"});
    if machine == "q35" {
        device["bus"] = json!("port1");
    }
    guest.qmp("device_add", device)?;
    guest.until(
        "the hot-plugged disk",
        "cat /sys/block/$(basename $(readlink -f /dev/disk/by-id/virtio-volume-1))/size",
        "32768",
    )?;
    guest.ssh("mkfs.ext2 -q /dev/disk/by-id/virtio-volume-1 && mount /dev/disk/by-id/virtio-volume-1 /mnt && echo kept >/mnt/file && umount /mnt")?;
    guest.qmp("device_del", json!({"id": "extra"}))?;
    guest.until("the disk to go", "ls /dev/disk/by-id", "virtio-root-disk")?;

    guest.ssh("echo survives >/root/mark && sync")?;
    let host_key = guest.host_key()?;
    guest.qmp("system_reset", json!({}))?;
    guest.until(
        "the guest after a hard reset",
        "cat /root/mark; cut -d. -f1 /proc/uptime | grep -cE '^.{1,2}$'; cat /root/user-data-ran",
        "survives\n1\nran",
    )?;
    ensure!(
        guest.host_key()? == host_key,
        "the host key changed over a reset"
    );
    guest.ssh("(sleep 1; reboot) >/dev/null 2>&1 &")?;
    guest.console_has("going down")?;
    guest.wait_for_ssh(step)?;

    step.detail(&format!("{machine}: power button"));
    guest.qmp("system_powerdown", json!({}))?;
    guest.ends()?;
    ui::say(&format!(
        "    ssh was ready after {} as a {machine}",
        ui::seconds(ready)
    ));
    Ok(())
}

struct Guest {
    child: Child,
    monitor: UnixStream,
    reader: BufReader<UnixStream>,
    console: PathBuf,
    ssh_port: u16,
    key: PathBuf,
}

impl Guest {
    fn start(
        machine: &str,
        folder: &Path,
        disk: &Path,
        metadata: Option<u16>,
        key: &Path,
    ) -> Result<Self> {
        let console = folder.join("console.log");
        let socket = folder.join("qmp");
        let ssh_port = free_port()?;
        // QEMU's network hands out addresses around the metadata service's, so
        // that the guest finds it where a cloud has it.
        let mut network = format!(
            "user,id=net,net=169.254.169.0/24,dhcpstart=169.254.169.20,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"
        );
        if let Some(port) = metadata {
            network.push_str(&format!(
                ",guestfwd=tcp:169.254.169.254:80-cmd:busybox nc 127.0.0.1 {port}"
            ));
        }
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args([
                "-accel",
                "tcg",
                "-cpu",
                "qemu64",
                "-m",
                "160",
                "-smp",
                "1",
                "-display",
                "none",
                "-no-user-config",
            ])
            .args(["-machine", machine])
            .args(["-serial", &format!("file:{}", console.display())])
            .args([
                "-qmp",
                &format!("unix:{},server=on,wait=off", socket.display()),
            ])
            .args([
                "-drive",
                &format!(
                    "if=none,id=root,file={},format=qcow2,cache=writeback",
                    disk.display()
                ),
            ])
            .args([
                "-device",
                "virtio-blk-pci,drive=root,serial=root-disk,bootindex=1",
            ])
            .args(["-netdev", &network])
            .args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        if machine == "q35" {
            command.args(["-device", "pcie-root-port,id=port1,chassis=1,slot=1"]);
        }
        let drive = folder.join("drive.iso");
        if drive.exists() {
            command
                .args([
                    "-drive",
                    &format!(
                        "if=none,id=config,readonly=on,file={},format=raw",
                        drive.display()
                    ),
                ])
                .args(["-device", "virtio-scsi-pci,id=scsi"])
                .args(["-device", "scsi-cd,bus=scsi.0,drive=config"]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("qemu.log"))?)
            .spawn()
            .context("cannot start qemu-system-x86_64")?;
        // From here on the child is ended if anything goes wrong.
        let mut child = Some(child);
        let opened = run::wait_for(Duration::from_secs(20), || {
            Ok(UnixStream::connect(&socket).ok())
        })?;
        let Some((monitor, child)) = opened.zip(child.take()) else {
            bail!(
                "QEMU did not start: {}",
                fs::read_to_string(folder.join("qemu.log")).unwrap_or_default()
            );
        };
        monitor.set_read_timeout(Some(Duration::from_secs(30)))?;
        let reader = BufReader::new(monitor.try_clone()?);
        let mut guest = Self {
            child,
            monitor,
            reader,
            console,
            ssh_port,
            key: key.to_owned(),
        };
        guest.line()?;
        guest.qmp("qmp_capabilities", json!({}))?;
        Ok(guest)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.reader
            .read_line(&mut line)
            .context("QEMU's monitor is silent")?;
        serde_json::from_str(&line).context("QEMU's monitor speaks no JSON")
    }

    fn qmp(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.monitor, "{request}")?;
        loop {
            let answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }

    fn ssh(&self, command: &str) -> Result<String> {
        self.ssh_as("root", command)
    }

    fn ssh_as(&self, user: &str, command: &str) -> Result<String> {
        let port = self.ssh_port.to_string();
        let key = self.key.to_string_lossy();
        let text = Run::new(
            "ssh",
            [
                "-i",
                &key,
                "-p",
                &port,
                "-l",
                user,
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "LogLevel=ERROR",
                "-o",
                "ConnectTimeout=5",
                "-o",
                "ServerAliveInterval=5",
                "-o",
                "IdentitiesOnly=yes",
                "127.0.0.1",
                command,
            ],
        )
        .text()?;
        Ok(text.trim().to_owned())
    }

    fn host_key(&self) -> Result<String> {
        self.ssh("dropbearkey -y -f /var/lib/yakumo/host-key | sed -n 2p")
    }

    fn wait_for_ssh(&mut self, step: &Step) -> Result<()> {
        let ready = run::wait_for(PATIENCE, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("QEMU ended by itself ({status})");
            }
            let console = self.console_text();
            step.detail(console.lines().last().unwrap_or("no console yet"));
            if console.contains("yakumo-guest: ssh ready") {
                Ok(self.ssh("true").ok())
            } else {
                Ok(None)
            }
        })?;
        ready
            .with_context(|| {
                format!(
                    "no ssh after {} s; the console ends:\n{}",
                    PATIENCE.as_secs(),
                    run::tail(&self.console_text())
                )
            })
            .map(|_| ())
    }

    fn console_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    fn console_has(&self, text: &str) -> Result<()> {
        run::wait_for(PATIENCE, || {
            Ok(self.console_text().contains(text).then_some(()))
        })?
        .with_context(|| {
            format!(
                "the console never said {text:?}:\n{}",
                run::tail(&self.console_text())
            )
        })
    }

    /// Waits until a command in the guest says what it should.
    fn until(&self, what: &str, command: &str, wanted: &str) -> Result<()> {
        let mut last = Ok(String::new());
        let seen = run::wait_for(PATIENCE, || {
            last = self.ssh(command);
            Ok(last.as_ref().is_ok_and(|text| text == wanted).then_some(()))
        })?;
        seen.with_context(|| {
            format!(
                "waited for {what}, but `{command}` says {last:?}:\n{}",
                run::tail(&self.console_text())
            )
        })
    }

    fn ends(&mut self) -> Result<()> {
        run::wait_for(PATIENCE, || Ok(self.child.try_wait()?))?
            .with_context(|| {
                format!(
                    "the power button did nothing:\n{}",
                    run::tail(&self.console_text())
                )
            })
            .map(|_| ())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The metadata service's answers that the guest asks for, one thread per request.
struct MetadataService {
    port: u16,
    stop: Arc<AtomicBool>,
}

impl MetadataService {
    fn start(meta_data: String, user_data: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // A guest that hangs up early is not a reason to stop serving.
                let _ = answer(stream, &meta_data, &user_data);
            }
        });
        Ok(Self { port, stop })
    }
}

impl Drop for MetadataService {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread up, so that it sees the flag.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn answer(mut stream: TcpStream, meta_data: &str, user_data: &str) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && request.len() < 8192 && stream.read(&mut byte)? == 1 {
        request.push(byte[0]);
    }
    let request = String::from_utf8_lossy(&request);
    let (status, body) = match request.split(' ').nth(1) {
        Some("/openstack/latest/meta_data.json") => ("200 OK", meta_data),
        Some("/openstack/latest/user_data") => ("200 OK", user_data),
        _ => ("404 Not Found", ""),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
