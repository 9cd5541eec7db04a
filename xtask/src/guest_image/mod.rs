//! Builds the guest image: a small whole-disk qcow2 as cloud images are, made
//! of Debian's own packages, none of which is installed on this machine.
//!
//! ```text
//! MBR (syslinux) │ FAT: syslinux, kernel, initrd │ ext4 "yakumo-root": busybox, dropbear, modules
//! ```
//!
//! It boots by BIOS from a virtio or SCSI disk, takes its address from DHCP, its
//! name, key and user data from a config drive or the metadata service, keeps
//! its state on the second partition, and obeys the power button. The programs
//! of its own are shell scripts in `xtask/guest`. Nothing is mounted while
//! building: `mtools` writes the FAT partition, `mke2fs -d` the other one.
//!
//! The image is kept until one of its ingredients in the repository changes.

mod modules;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use self::modules::{AFTER_BOOT, CONFIG_DRIVE, Modules, OTHER_DISKS, VIRTIO_DISK};
use crate::paths::{Paths, short_hash};
use crate::run::{self, Run};
use crate::ui::{self, Step};

/// Our own files: where they go in the root file system, mode, content.
const FILES: [(&str, u32, &str); 14] = [
    ("etc/inittab", 0o644, include_str!("../../guest/inittab")),
    (
        "etc/mdev.conf",
        0o644,
        include_str!("../../guest/mdev.conf"),
    ),
    ("etc/issue", 0o644, include_str!("../../guest/issue")),
    ("etc/profile", 0o644, include_str!("../../guest/profile")),
    (
        "etc/acpi/PWRF/00000080",
        0o755,
        include_str!("../../guest/poweroff"),
    ),
    ("lib/guest/start", 0o755, include_str!("../../guest/start")),
    ("lib/guest/stop", 0o755, include_str!("../../guest/stop")),
    ("lib/guest/cloud", 0o755, include_str!("../../guest/cloud")),
    (
        "lib/guest/interface",
        0o755,
        include_str!("../../guest/interface"),
    ),
    ("lib/guest/lease", 0o755, include_str!("../../guest/lease")),
    (
        "lib/guest/disk-link",
        0o755,
        include_str!("../../guest/disk-link"),
    ),
    (
        "bin/mkfs.ext2",
        0o755,
        include_str!("../../guest/mkfs-ext2"),
    ),
    ("etc/hostname", 0o644, "yakumo-guest\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n"),
];

/// Accounts: both are the superuser, and neither has a password.
const PASSWD: &str = "root:*:0:0:root:/root:/bin/sh\nyakumo:*:0:0:yakumo:/home/yakumo:/bin/sh\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\n";

const INITRD_INIT: &str = include_str!("../../guest/initrd-init");
const SYSLINUX_CONFIG: &str = include_str!("../../guest/syslinux.cfg");

const SECTOR: u64 = 512;
const MIB: u64 = 1024 * 1024;
const BOOT_START: u64 = MIB;
const BOOT_SIZE: u64 = 24 * MIB;
const ROOT_START: u64 = BOOT_START + BOOT_SIZE;
const ROOT_SIZE: u64 = 71 * MIB;

/// Builds the image unless an up-to-date one is there, and says where it is.
pub fn build(paths: &Paths) -> Result<PathBuf> {
    let image = paths.guest_image();
    let folder = image
        .parent()
        .context("the image needs a folder")?
        .to_owned();
    let stamp = folder.join("ingredients");
    let wanted = ingredients();
    if image.exists() && fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return Ok(image);
    }
    ui::step("building the guest image", |step| {
        let work = folder.join("work");
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        fs::create_dir_all(&work)?;
        let fresh = Builder {
            work: work.clone(),
            log: paths.log(),
            step,
        }
        .build()?;
        fs::rename(&fresh, &image)?;
        fs::write(&stamp, &wanted)?;
        fs::remove_dir_all(&work)?;
        Ok(())
    })?;
    Ok(image)
}

/// A fingerprint of everything in the repository that the image is made of,
/// and of the Debian release that the packages come from.
fn ingredients() -> String {
    let mut all = String::from(concat!(include_str!("mod.rs"), include_str!("modules.rs")));
    for (path, mode, content) in FILES {
        all.push_str(&format!("{path} {mode:o} {content}"));
    }
    all.push_str(INITRD_INIT);
    all.push_str(SYSLINUX_CONFIG);
    all.push_str(&fs::read_to_string("/etc/debian_version").unwrap_or_default());
    // Files in it belong to who builds it, and only root's let guests boot.
    all.push_str(&nix::unistd::geteuid().to_string());
    short_hash(Path::new(&all))
}

struct Builder<'a> {
    work: PathBuf,
    log: PathBuf,
    step: &'a Step,
}

impl Builder<'_> {
    fn build(&self) -> Result<PathBuf> {
        self.step.detail("fetching Debian packages");
        let packages = self.work.join("packages");
        let kernel = self.kernel_package()?;
        let mut names = vec![
            kernel,
            "syslinux".into(),
            "syslinux-common".into(),
            "busybox-static".into(),
        ];
        names.extend(self.with_dependencies("dropbear-bin")?);
        self.fetch(&names, &packages)?;
        self.step.detail("unpacking");
        let unpacked = self.work.join("unpacked");
        self.unpack(&packages, &unpacked)?;
        self.step.detail("root file system");
        let modules = Modules::read(&unpacked)?;
        let root = self.root_tree(&unpacked, &modules)?;
        let root_image = self.root_image(&root)?;
        self.step.detail("boot partition");
        let initrd = self.initrd(&unpacked, &modules)?;
        let boot_image = self.boot_image(&unpacked, &initrd)?;
        self.step.detail("disk");
        self.disk(&unpacked, &boot_image, &root_image)
    }

    fn run<const N: usize>(&self, program: &str, arguments: [&str; N]) -> Run {
        let program = run::find(program).unwrap_or_else(|| PathBuf::from(program));
        Run::new(program, arguments).log(&self.log)
    }

    /// The package with the kernel that `linux-image-cloud-amd64` stands for.
    fn kernel_package(&self) -> Result<String> {
        let query = || {
            self.run("apt-cache", ["depends", "linux-image-cloud-amd64"])
                .text()
        };
        let mut text = query().unwrap_or_default();
        if !text.contains("linux-image-") {
            self.run("apt-get", ["update"]).followed(self.step)?;
            text = query()?;
        }
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with("linux-image-"))
            .map(str::to_owned)
            .context("apt knows no linux-image-cloud-amd64; are Debian's main archives configured?")
    }

    fn with_dependencies(&self, package: &str) -> Result<Vec<String>> {
        let text = self
            .run(
                "apt-cache",
                [
                    "depends",
                    "--recurse",
                    "--no-recommends",
                    "--no-suggests",
                    "--no-conflicts",
                    "--no-breaks",
                    "--no-replaces",
                    "--no-enhances",
                    package,
                ],
            )
            .text()?;
        // Names stand at the beginning of a line; virtual ones in angle brackets.
        let names: BTreeSet<String> = text
            .lines()
            .filter(|line| !line.starts_with([' ', '|', '<']) && !line.is_empty())
            .filter(|name| !name.contains(':') && !name.starts_with("debconf"))
            .map(str::to_owned)
            .collect();
        Ok(names.into_iter().collect())
    }

    fn fetch(&self, names: &[String], folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let mut arguments = vec!["-o", "APT::Sandbox::User=root", "download"];
        arguments.extend(names.iter().map(String::as_str));
        let download = || Run::new("apt-get", &arguments).dir(folder).log(&self.log);
        if download().followed(self.step).is_err() {
            // Old lists name versions that the mirror has dropped.
            self.run("apt-get", ["update"]).followed(self.step)?;
            download()
                .followed(self.step)
                .context("the guest's packages cannot be fetched")?;
        }
        Ok(())
    }

    fn unpack(&self, packages: &Path, unpacked: &Path) -> Result<()> {
        fs::create_dir_all(unpacked)?;
        for entry in fs::read_dir(packages)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                self.run("dpkg-deb", ["-x", text(&path)?, text(unpacked)?])
                    .done()?;
            }
        }
        Ok(())
    }

    /// The tree of the root file system.
    fn root_tree(&self, unpacked: &Path, modules: &Modules) -> Result<PathBuf> {
        let root = self.work.join("root");
        for folder in [
            "bin",
            "lib/modules",
            "lib/guest",
            "etc/acpi/PWRF",
            "root",
            "home/yakumo",
            "proc",
            "sys",
            "dev",
            "run",
            "tmp",
            "mnt",
            "var/lib/yakumo",
            "usr",
            "var/log",
        ] {
            fs::create_dir_all(root.join(folder))?;
        }
        symlink("bin", root.join("sbin"))?;
        symlink("lib", root.join("lib64"))?;
        for (link, to) in [("bin", "../bin"), ("sbin", "../bin"), ("lib", "../lib")] {
            symlink(to, root.join("usr").join(link))?;
        }
        symlink("../run", root.join("var/run"))?;
        symlink("/proc/mounts", root.join("etc/mtab"))?;
        self.install_busybox(unpacked, &root.join("bin"))?;
        self.install_dropbear(unpacked, &root)?;
        for (path, mode, content) in FILES {
            write(&root.join(path), mode, content.as_bytes())?;
        }
        write(&root.join("etc/passwd"), 0o644, PASSWD.as_bytes())?;
        write(&root.join("etc/group"), 0o644, GROUP.as_bytes())?;
        write(&root.join("etc/shells"), 0o644, b"/bin/sh\n")?;
        write(&root.join("etc/resolv.conf"), 0o644, b"")?;
        fs::set_permissions(root.join("root"), fs::Permissions::from_mode(0o700))?;
        fs::set_permissions(root.join("home/yakumo"), fs::Permissions::from_mode(0o700))?;
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;

        let folder = root.join("lib/modules");
        let after = modules.order(&AFTER_BOOT);
        let drive = modules.order(&CONFIG_DRIVE);
        self.install_modules(modules, &after, &folder, "order")?;
        self.install_modules(modules, &drive, &folder, "config-drive.order")?;
        Ok(root)
    }

    fn install_busybox(&self, unpacked: &Path, bin: &Path) -> Result<()> {
        let busybox = first_existing(unpacked, &["usr/bin/busybox", "bin/busybox"])?;
        let list = Run::new(&busybox, ["--list"]).text()?;
        fs::copy(&busybox, bin.join("busybox"))?;
        fs::set_permissions(bin.join("busybox"), fs::Permissions::from_mode(0o755))?;
        for applet in list
            .lines()
            .map(str::trim)
            .filter(|name| !name.is_empty() && *name != "busybox")
        {
            symlink("busybox", bin.join(applet))?;
        }
        Ok(())
    }

    /// Dropbear with the libraries that its loader finds in the packages.
    fn install_dropbear(&self, unpacked: &Path, root: &Path) -> Result<()> {
        let loader = first_existing(
            unpacked,
            &[
                "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
                "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
            ],
        )?;
        let folders = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|folder| unpacked.join(folder).to_string_lossy().into_owned())
            .join(":");
        let mut libraries = BTreeSet::new();
        for program in [
            "usr/sbin/dropbear",
            "usr/bin/dropbearkey",
            "usr/bin/dbclient",
        ] {
            let program = unpacked.join(program);
            let list = Run::new(
                &loader,
                ["--library-path", &folders, "--list", text(&program)?],
            )
            .text()?;
            for line in list.lines() {
                // `libz.so.1 => /…/libz.so.1 (0x…)`; the vDSO has no arrow.
                if let Some((_, path)) = line.split_once(" => ") {
                    let path = path.split(" (").next().unwrap_or(path).trim();
                    if !path.starts_with(text(unpacked)?) {
                        bail!("{} is not in the packages: {line}", program.display());
                    }
                    libraries.insert(PathBuf::from(path));
                }
            }
            let name = program.file_name().context("a program has a name")?;
            fs::copy(&program, root.join("bin").join(name))?;
        }
        libraries.insert(loader);
        for library in libraries {
            let name = library.file_name().context("a library has a name")?;
            // Follows the link to the versioned file.
            fs::copy(&library, root.join("lib").join(name))?;
        }
        symlink("dbclient", root.join("bin/ssh"))?;
        Ok(())
    }

    fn install_modules(
        &self,
        modules: &Modules,
        order: &[String],
        folder: &Path,
        list: &str,
    ) -> Result<()> {
        let mut names = String::new();
        for name in order {
            let target = folder.join(format!("{name}.ko"));
            if !target.exists() {
                fs::write(&target, modules.content(name)?)?;
            }
            names.push_str(&format!("{name}.ko\n"));
        }
        fs::write(folder.join(list), names)?;
        Ok(())
    }

    fn root_image(&self, root: &Path) -> Result<PathBuf> {
        let image = self.work.join("root.img");
        File::create(&image)?.set_len(ROOT_SIZE)?;
        self.run(
            "mke2fs",
            [
                "-q",
                "-F",
                "-t",
                "ext4",
                "-L",
                "yakumo-root",
                "-m",
                "0",
                "-b",
                "1024",
                "-N",
                "4096",
                "-E",
                "root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0",
                "-J",
                "size=4",
                "-d",
                text(root)?,
                text(&image)?,
            ],
        )
        .done()?;
        Ok(image)
    }

    fn initrd(&self, unpacked: &Path, modules: &Modules) -> Result<PathBuf> {
        let tree = self.work.join("initrd");
        for folder in ["bin", "dev", "proc", "sys", "root", "modules"] {
            fs::create_dir_all(tree.join(folder))?;
        }
        self.install_busybox(unpacked, &tree.join("bin"))?;
        self.install_modules(
            modules,
            &modules.order(&VIRTIO_DISK),
            &tree.join("modules"),
            "virtio-disk.order",
        )?;
        self.install_modules(
            modules,
            &modules.order(&OTHER_DISKS),
            &tree.join("modules"),
            "other-disks.order",
        )?;
        write(&tree.join("init"), 0o755, INITRD_INIT.as_bytes())?;
        let image = self.work.join("initrd.gz");
        self.run(
            "sh",
            [
                "-ec",
                "cd \"$1\" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -9n >\"$2\"",
                "sh",
                text(&tree)?,
                text(&image)?,
            ],
        )
        .done()?;
        Ok(image)
    }

    fn boot_image(&self, unpacked: &Path, initrd: &Path) -> Result<PathBuf> {
        let image = self.work.join("boot.img");
        File::create(&image)?.set_len(BOOT_SIZE)?;
        let hidden = (BOOT_START / SECTOR).to_string();
        self.run(
            "mkfs.fat",
            [
                "-F",
                "16",
                "-h",
                &hidden,
                "-n",
                "YAKUMO-BOOT",
                text(&image)?,
            ],
        )
        .done()?;
        let kernel = fs::read_dir(unpacked.join("boot"))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
            })
            .context("the kernel package holds no kernel")?;
        let config = self.work.join("syslinux.cfg");
        fs::write(&config, SYSLINUX_CONFIG)?;
        for (file, name) in [
            (kernel.as_path(), "::/vmlinuz"),
            (initrd, "::/initrd.gz"),
            (config.as_path(), "::/syslinux.cfg"),
        ] {
            self.run("mcopy", ["-i", text(&image)?, text(file)?, name])
                .env("MTOOLS_SKIP_CHECK", "1")
                .done()?;
        }
        // Puts ldlinux.sys and ldlinux.c32 in place, by mtools: no mount.
        Run::new(
            unpacked.join("usr/bin/syslinux"),
            ["--install", text(&image)?],
        )
        .log(&self.log)
        .done()?;
        Ok(image)
    }

    fn disk(&self, unpacked: &Path, boot: &Path, root: &Path) -> Result<PathBuf> {
        let raw = self.work.join("disk.raw");
        let mut disk = File::create(&raw)?;
        disk.set_len(ROOT_START + ROOT_SIZE)?;
        let loader = first_existing(
            unpacked,
            &["usr/lib/syslinux/mbr/mbr.bin", "usr/lib/SYSLINUX/mbr.bin"],
        )?;
        disk.write_all(&master_boot_record(&fs::read(loader)?)?)?;
        for (start, part) in [(BOOT_START, boot), (ROOT_START, root)] {
            disk.seek(SeekFrom::Start(start))?;
            std::io::copy(&mut File::open(part)?, &mut disk)?;
        }
        disk.sync_all()?;
        let image = self.work.join("disk.qcow2");
        self.run(
            "qemu-img",
            [
                "convert",
                "-f",
                "raw",
                "-O",
                "qcow2",
                text(&raw)?,
                text(&image)?,
            ],
        )
        .done()?;
        Ok(image)
    }
}

/// Boot code, two partitions, signature.
fn master_boot_record(code: &[u8]) -> Result<[u8; 512]> {
    let mut record = [0; 512];
    if code.len() > 440 {
        bail!(
            "the boot code is {} bytes long and only 440 fit",
            code.len()
        );
    }
    record[..code.len()].copy_from_slice(code);
    record[440..444].copy_from_slice(b"ykmo");
    for (index, (active, kind, start, size)) in [
        (0x80, 0x0e, BOOT_START, BOOT_SIZE),
        (0, 0x83, ROOT_START, ROOT_SIZE),
    ]
    .into_iter()
    .enumerate()
    {
        let entry = &mut record[446 + index * 16..462 + index * 16];
        entry[0] = active;
        // Beyond what cylinders, heads and sectors can say: read the block addresses.
        entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[4] = kind;
        entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[8..12].copy_from_slice(&u32::try_from(start / SECTOR)?.to_le_bytes());
        entry[12..16].copy_from_slice(&u32::try_from(size / SECTOR)?.to_le_bytes());
    }
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(record)
}

fn first_existing(folder: &Path, names: &[&str]) -> Result<PathBuf> {
    names
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.exists())
        .with_context(|| format!("the packages hold none of {}", names.join(", ")))
}

fn write(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_record_names_both_partitions() {
        let record = master_boot_record(&[0xaa; 440]).unwrap();
        assert_eq!(record[446], 0x80);
        assert_eq!(
            u32::from_le_bytes(record[454..458].try_into().unwrap()),
            2048
        );
        assert_eq!(
            u32::from_le_bytes(record[470..474].try_into().unwrap()),
            2048 + 24 * 2048
        );
        assert_eq!(record[510..], [0x55, 0xaa]);
        assert!(master_boot_record(&[0; 441]).is_err());
    }
}
