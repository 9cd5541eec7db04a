//! The kernel's modules that the guest needs, and the order in which they load.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::first_existing;

/// Modules in the order of loading; what they depend on is found in them.
pub const VIRTIO_DISK: [&str; 2] = ["virtio_pci", "virtio_blk"];
pub const OTHER_DISKS: [&str; 4] = ["virtio_scsi", "ata_piix", "ahci", "sd_mod"];
pub const AFTER_BOOT: [&str; 5] = [
    "virtio_net",
    "evdev",
    "button",
    "virtio_rng",
    "virtio_balloon",
];
pub const CONFIG_DRIVE: [&str; 6] = ["virtio_scsi", "ata_piix", "ahci", "sr_mod", "isofs", "vfat"];

/// The kernel's modules, by name.
pub struct Modules {
    files: HashMap<String, PathBuf>,
    needs: HashMap<String, Vec<String>>,
}

impl Modules {
    pub fn read(unpacked: &Path) -> Result<Self> {
        let top = first_existing(unpacked, &["usr/lib/modules", "lib/modules"])?;
        let mut files = HashMap::new();
        let mut folders = VecDeque::from([top]);
        while let Some(folder) = folders.pop_front() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push_back(entry.path());
                } else if let Some((name, _)) =
                    entry.file_name().to_string_lossy().split_once(".ko")
                {
                    files.insert(name.replace('-', "_"), entry.path());
                }
            }
        }
        let mut modules = Self {
            files,
            needs: HashMap::new(),
        };
        let mut queue: VecDeque<String> = VIRTIO_DISK
            .iter()
            .chain(&OTHER_DISKS)
            .chain(&AFTER_BOOT)
            .chain(&CONFIG_DRIVE)
            .map(|name| (*name).to_owned())
            .collect();
        while let Some(name) = queue.pop_front() {
            if modules.needs.contains_key(&name) || !modules.files.contains_key(&name) {
                continue;
            }
            let needs = depends(&modules.content(&name)?);
            queue.extend(needs.iter().cloned());
            modules.needs.insert(name, needs);
        }
        for needed in ["virtio_blk", "virtio_net"] {
            if !modules.files.contains_key(needed) {
                bail!("the kernel package has no module {needed}");
            }
        }
        Ok(modules)
    }

    /// `names` with all that they need, in an order that loads. Modules that are
    /// built into this kernel, or that it lacks, are left out.
    pub fn order(&self, names: &[&str]) -> Vec<String> {
        fn visit(modules: &Modules, name: &str, order: &mut Vec<String>) {
            if order.iter().any(|known| known == name) || !modules.files.contains_key(name) {
                return;
            }
            for need in modules.needs.get(name).into_iter().flatten() {
                visit(modules, need, order);
            }
            order.push(name.to_owned());
        }
        let mut order = Vec::new();
        for name in names {
            visit(self, name, &mut order);
        }
        order
    }

    /// The module as `insmod` wants it; Debian 13 ships them compressed.
    pub fn content(&self, name: &str) -> Result<Vec<u8>> {
        let path = self
            .files
            .get(name)
            .with_context(|| format!("no module {name}"))?;
        if path.extension().is_some_and(|extension| extension == "xz") {
            let output = std::process::Command::new("xz")
                .arg("-dc")
                .arg(path)
                .output()?;
            if !output.status.success() {
                bail!("cannot unpack {}", path.display());
            }
            return Ok(output.stdout);
        }
        Ok(fs::read(path)?)
    }
}

/// What a module says that it depends on: `depends=a,b` in its `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let rest = &module[at + KEY.len()..];
    let end = rest
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(rest.len());
    String::from_utf8_lossy(&rest[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modules_needs_are_read_from_it() {
        assert_eq!(
            depends(b"xx\0license=GPL\0depends=jbd2,crc-t10dif\0name=ext4\0"),
            ["jbd2", "crc_t10dif"]
        );
        assert!(depends(b"xx\0depends=\0name=a\0").is_empty());
        assert!(depends(b"nothing here").is_empty());
    }
}
