//! Disk images, read and made by `qemu-img` under limits: an image that comes
//! from a stranger must cost neither much memory nor much time.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::command::{Cmd, CommandError, CommandRunner, Limits};

/// Limits for reading what a stranger gave.
const STRANGER: Limits = Limits {
    address_space: 1024 * 1024 * 1024,
    cpu_seconds: 8,
};

/// What `qemu-img` says about an image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct DiskInfo {
    /// `raw`, `qcow2`, `vmdk`, …
    pub format: String,
    /// Bytes that a guest sees.
    #[serde(rename = "virtual-size")]
    pub virtual_size: u64,
    /// Bytes that it takes on the disk.
    #[serde(rename = "actual-size", default)]
    pub actual_size: u64,
    /// The file that it leans on.
    #[serde(rename = "backing-filename", default)]
    pub backing_filename: Option<String>,
    /// Format-specific facts.
    #[serde(rename = "format-specific", default)]
    pub format_specific: serde_json::Value,
}

impl DiskInfo {
    /// The outside file that a qcow2 keeps its data in, if it has one.
    pub fn data_file(&self) -> Option<&str> {
        self.format_specific.get("data")?.get("data-file")?.as_str()
    }
}

/// Why an image could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// `qemu-img` did not do it.
    #[error("qemu-img failed")]
    Command(#[from] CommandError),
    /// Its answer makes no sense.
    #[error("the answer of qemu-img could not be read")]
    Answer(#[from] serde_json::Error),
}

/// Reads an image's header, without opening files that it points to. The format
/// must be named wherever it is known, so that a raw image whose guest wrote a
/// header into it is not taken for what it plays.
pub async fn disk_info(
    runner: &dyn CommandRunner,
    path: &Path,
    format: Option<&str>,
) -> Result<DiskInfo, DiskError> {
    let mut args = vec![
        "info".to_owned(),
        "--output=json".to_owned(),
        "-U".to_owned(),
    ];
    if let Some(format) = format {
        args.extend(["-f".to_owned(), format.to_owned()]);
    }
    args.push("--".to_owned());
    args.push(path.display().to_string());
    let output = runner
        .run(
            Cmd::new("qemu-img", args)
                .limits(STRANGER)
                .timeout(Duration::from_secs(30)),
        )
        .await?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Makes an empty image of so many bytes.
pub async fn create_disk(
    runner: &dyn CommandRunner,
    path: &Path,
    format: &str,
    size: u64,
) -> Result<(), DiskError> {
    let path = path.display().to_string();
    let size = size.to_string();
    runner
        .run(Cmd::new(
            "qemu-img",
            ["create", "-q", "-f", format, "--", &path, &size],
        ))
        .await?;
    Ok(())
}

/// Makes a qcow2 overlay on a base whose format is named, at least as large as
/// the base; `size` in bytes, or the base's own.
pub async fn create_overlay(
    runner: &dyn CommandRunner,
    path: &Path,
    base: &Path,
    base_format: &str,
    size: Option<u64>,
) -> Result<(), DiskError> {
    let mut args: Vec<String> = ["create", "-q", "-f", "qcow2", "-F", base_format, "-b"]
        .map(str::to_owned)
        .to_vec();
    args.push(base.display().to_string());
    args.push("--".to_owned());
    args.push(path.display().to_string());
    args.extend(size.map(|size| size.to_string()));
    runner.run(Cmd::new("qemu-img", args)).await?;
    Ok(())
}

/// Makes an image larger; `size` in bytes.
pub async fn grow_disk(
    runner: &dyn CommandRunner,
    path: &Path,
    format: &str,
    size: u64,
) -> Result<(), DiskError> {
    let path = path.display().to_string();
    let size = size.to_string();
    runner
        .run(Cmd::new(
            "qemu-img",
            ["resize", "-q", "-f", format, "--", &path, &size],
        ))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{FakeRunner, Output};

    #[tokio::test]
    async fn the_header_tells_format_size_and_outside_files() {
        let runner = FakeRunner::answering(|_| {
            Ok(Output::of(
                r#"{"virtual-size": 1073741824, "filename": "x", "format": "qcow2", "actual-size": 200704,
                "format-specific": {"type": "qcow2", "data": {"data-file": "/etc/shadow"}}, "dirty-flag": false}"#,
            ))
        });
        let info = disk_info(&runner, Path::new("/images/x"), Some("qcow2"))
            .await
            .unwrap();
        assert_eq!(info.virtual_size, 1 << 30);
        assert_eq!(info.data_file(), Some("/etc/shadow"));
        assert_eq!(
            runner.lines(),
            ["qemu-img info --output=json -U -f qcow2 -- /images/x"]
        );
    }

    #[tokio::test]
    async fn an_overlay_names_the_format_of_its_base() {
        let runner = FakeRunner::new();
        create_overlay(
            &runner,
            Path::new("/servers/1/disk"),
            Path::new("/cache/a"),
            "raw",
            Some(10),
        )
        .await
        .unwrap();
        assert_eq!(
            runner.lines(),
            ["qemu-img create -q -f qcow2 -F raw -b /cache/a -- /servers/1/disk 10"]
        );
    }
}
