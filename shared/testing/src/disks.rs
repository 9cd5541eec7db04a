//! A small disk of a test's own, to be filled up.
//!
//! A file system in memory, mounted on a folder below `/tmp`. It is gone when it
//! is dropped or when the process that made it ends, in whatever way: a shell
//! that watches over it reads from a pipe, and the end of the pipe is the order
//! to clear up. Mounting needs root; without it there is no disk, and the test
//! that wants one fails and says so.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};

/// Ends the mount at the end of its input; lazily, so that files that are still
/// open somewhere do not keep it.
const KEEPER: &str = r#"
read -r order
umount -l "$1"
rmdir "$1"
"#;

/// See the module.
pub struct SmallDisk {
    folder: PathBuf,
    keeper: Child,
    order: Option<ChildStdin>,
}

impl SmallDisk {
    /// A disk of so many KiB.
    pub fn new(kib: u64) -> Result<Self> {
        Self::mounted(&format!("size={kib}k,mode=0700"))
    }

    /// The same, with room for `files` files and folders.
    pub fn with_files(kib: u64, files: u64) -> Result<Self> {
        Self::mounted(&format!("size={kib}k,nr_inodes={files},mode=0700"))
    }

    #[allow(clippy::disallowed_methods)]
    fn mounted(options: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("yakumo-disk-")
            .tempdir_in("/tmp")?
            .keep();
        let mut keeper = Command::new("/bin/sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&folder)
            // A signal for the test program's group is not for the keeper.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("the shell that keeps the disk")?;
        let disk = Self {
            order: keeper.stdin.take(),
            keeper,
            folder,
        };
        mount(
            Some("yakumo-test"),
            &disk.folder,
            Some("tmpfs"),
            MsFlags::MS_NODEV | MsFlags::MS_NOSUID,
            Some(options),
        )
        .context("mounting a file system, which needs root")?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Leaves room for `left` KiB, in whole pages, and for nothing more.
    pub fn fill(&self, left: u64) -> Result<()> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())?;
        let piece = [0; 4096];
        loop {
            match file.write_all(&piece) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
        let length = file.metadata()?.len();
        file.set_len(length.saturating_sub(left * 1024))?;
        Ok(())
    }

    /// Leaves room for no further file, however small.
    pub fn fill_with_files(&self) -> Result<()> {
        std::fs::create_dir_all(self.litter())?;
        for number in 0_u32.. {
            match File::create(self.litter().join(number.to_string())) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn litter(&self) -> PathBuf {
        self.folder.join("litter")
    }

    /// Removes what [`Self::fill_with_files`] has made.
    pub fn remove_files(&self) -> Result<()> {
        Ok(std::fs::remove_dir_all(self.litter())?)
    }

    /// Makes all of the room again.
    pub fn make_room(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.order = None;
        let _ = self.keeper.wait();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_until_there_is_room() {
        let disk = SmallDisk::new(256).unwrap();
        let folder = disk.path().to_owned();
        let file = folder.join("file");
        disk.fill(0).unwrap();
        let full = std::fs::write(&file, "x").unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        disk.make_room().unwrap();
        disk.fill(8).unwrap();
        std::fs::write(&file, [0; 8192]).unwrap();
        std::fs::write(folder.join("more"), "x").unwrap_err();
        drop(disk);
        assert!(!folder.exists());
    }
}
