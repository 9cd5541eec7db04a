//! Where things are in a checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The folders that xtask works in.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The checkout.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// Everything that the development cloud keeps: `.yakumo`, which is
    /// git-ignored, unless the command line says otherwise.
    pub state: PathBuf,
}

impl Paths {
    /// Finds the checkout that this program was built from.
    pub fn find() -> Result<Self> {
        // Not the variable of the same name at run time: a test that calls this
        // program hands down its own.
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest
            .parent()
            .context("xtask must lie in the workspace")?
            .canonicalize()
            .context("the workspace is gone")?;
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let target = if target.is_absolute() {
            target
        } else {
            root.join(target)
        };
        Ok(Self {
            state: root.join(".yakumo"),
            root,
            target,
        })
    }

    /// The program of the cloud, as `cargo build` leaves it.
    pub fn program(&self) -> PathBuf {
        self.target.join("debug/yakumo")
    }

    /// The guest image.
    pub fn guest_image(&self) -> PathBuf {
        self.target.join("guest/yakumo-guest.qcow2")
    }

    /// The virtual environment with the official Python clients.
    pub fn python_clients(&self) -> PathBuf {
        self.target.join("python-clients")
    }

    /// The virtual environment with the library that the bus is measured beside.
    pub fn bus_peer(&self) -> PathBuf {
        self.target.join("bus-peer")
    }

    /// What the programs that xtask starts have said.
    pub fn log(&self) -> PathBuf {
        self.target.join("xtask.log")
    }
}

/// A short name for a path, stable across runs: two checkouts on one machine
/// get names of their own. FNV-1a, 32 bits, as eight hexadecimal digits.
pub fn short_hash(path: &Path) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in path.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    format!("{hash:08x}")
}
