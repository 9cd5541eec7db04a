//! Small disks of a test's own: one to be filled up, and one to be damaged.
//!
//! File systems in memory or in a file, mounted on a folder below `/tmp`. They
//! are gone when they are dropped or when the process that made them ends, in
//! whatever way: a shell that watches over them reads from a pipe, and the end of
//! the pipe is the order to clear up. Mounting needs root; without it there is no
//! disk, and the test that wants one fails and says so.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};

/// Ends the mount at the end of its input; lazily, so that files that are still
/// open somewhere do not keep it.
const KEEPER: &str = r#"
read -r order
umount -l "$FOLDER"
rmdir "$FOLDER"
"#;

/// Ends a mount when it is dropped, or when this process ends.
struct Keeper {
    shell: Child,
    order: Option<ChildStdin>,
}

impl Keeper {
    #[allow(clippy::disallowed_methods)]
    fn of(folder: &Path) -> Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", KEEPER])
            // Not as an argument: a test that ends all programs which name its
            // folder would end the keeper before its time.
            .env("FOLDER", folder)
            // A signal for the test program's group is not for the keeper.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("the shell that keeps the disk")?;
        Ok(Self {
            order: shell.stdin.take(),
            shell,
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.order = None;
        let _ = self.shell.wait();
    }
}

/// A disk in memory.
pub struct SmallDisk {
    folder: PathBuf,
    _keeper: Keeper,
}

impl SmallDisk {
    /// A disk of so many KiB.
    pub fn new(kib: u64) -> Result<Self> {
        Self::mounted(new_folder()?, &format!("size={kib}k,mode=0700"))
    }

    /// The same at this place, which must be an empty folder and is gone with it.
    pub fn at(folder: PathBuf, kib: u64) -> Result<Self> {
        Self::mounted(folder, &format!("size={kib}k,mode=0700"))
    }

    /// The same, with room for `files` files and folders.
    pub fn with_files(kib: u64, files: u64) -> Result<Self> {
        let options = format!("size={kib}k,nr_inodes={files},mode=0700");
        Self::mounted(new_folder()?, &options)
    }

    fn mounted(folder: PathBuf, options: &str) -> Result<Self> {
        let disk = Self {
            _keeper: Keeper::of(&folder)?,
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

fn new_folder() -> Result<PathBuf> {
    let folder = tempfile::Builder::new()
        .prefix("yakumo-disk-")
        .tempdir_in("/tmp")?;
    Ok(folder.keep())
}

/// A disk that can be damaged: ext4 in a file, which takes no changes any more
/// once it has found something wrong, as Debian sets it up.
pub struct FaultyDisk {
    folder: PathBuf,
    image: PathBuf,
    _keeper: Keeper,
    _room: tempfile::TempDir,
}

impl FaultyDisk {
    /// A disk of so many MiB.
    pub fn new(mib: u64) -> Result<Self> {
        let folder = new_folder()?;
        let room = tempfile::tempdir()?;
        let image = room.path().join("image");
        File::create(&image)?.set_len(mib << 20)?;
        run("mkfs.ext4", &["-q", &image.to_string_lossy()], &[0])?;
        let disk = Self {
            _keeper: Keeper::of(&folder)?,
            _room: room,
            folder,
            image,
        };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        let (image, folder) = (self.image.to_string_lossy(), self.folder.to_string_lossy());
        let options = "loop,errors=remount-ro";
        run("mount", &["-o", options, &image, &folder], &[0])
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Lets the file system find something wrong with itself.
    pub fn damage(&self) -> Result<()> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let mut mounts = mounts.lines().map(|line| line.split(' '));
        let device = mounts
            .find_map(|mut words| {
                let device = words.next()?;
                (Path::new(words.next()?) == self.folder).then_some(device)
            })
            .and_then(|device| device.strip_prefix("/dev/"))
            .context("the disk is not mounted")?;
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        Ok(std::fs::write(trigger, "as a test wants it")?)
    }

    /// What an operator does then. Nobody may have a file open.
    pub fn repair(&self) -> Result<()> {
        run("umount", &[&self.folder.to_string_lossy()], &[0])?;
        // 1: mended.
        run("e2fsck", &["-p", &self.image.to_string_lossy()], &[0, 1])?;
        self.mount()
    }
}

#[allow(clippy::disallowed_methods)]
fn run(program: &str, arguments: &[&str], fine: &[i32]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .with_context(|| format!("{program} could not be run"))?;
    let code = output.status.code();
    ensure!(
        code.is_some_and(|code| fine.contains(&code)),
        "{program}: {} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
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

    #[test]
    fn who_ends_the_programs_that_name_the_folder_spares_its_keeper() {
        let disk = SmallDisk::new(256).unwrap();
        let file = format!("/proc/{}/cmdline", disk._keeper.shell.id());
        // A program that is being put in another one's place has none for a moment.
        let words = std::iter::repeat_with(|| std::fs::read(&file).unwrap());
        let words = words.take(1_000_000).find(|words| !words.is_empty());
        let words = String::from_utf8(words.unwrap()).unwrap();
        assert!(words.contains("umount"), "{words}");
        assert!(!words.contains(disk.path().to_str().unwrap()), "{words}");
    }

    #[test]
    fn a_damaged_disk_takes_nothing_until_it_is_repaired() {
        let disk = FaultyDisk::new(16).unwrap();
        let folder = disk.path().to_owned();
        let file = folder.join("file");
        std::fs::write(&file, "before").unwrap();
        File::open(&file).unwrap().sync_all().unwrap();
        disk.damage().unwrap();
        let refused = std::fs::write(&file, "while").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
        disk.repair().unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "before");
        std::fs::write(&file, "after").unwrap();
        drop(disk);
        assert!(!folder.exists());
    }
}
