//! What the agent keeps on its disk: what should be, and what was made real.

use std::io;
use std::path::{Path, PathBuf};

use yakumo_contracts::network::HostState;
use yakumo_host::{read_if_there, write_durably};

/// The two files of an agent.
#[derive(Debug, Clone)]
pub(crate) struct StateFiles {
    state: PathBuf,
    applied: PathBuf,
}

impl StateFiles {
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            state: folder.join("state"),
            applied: folder.join("applied"),
        }
    }

    /// What should be; `None` before anything was ever heard.
    pub(crate) async fn read_state(&self) -> anyhow::Result<Option<HostState>> {
        read(self.state.clone()).await
    }

    /// What was made real last.
    pub(crate) async fn read_applied(&self) -> anyhow::Result<Option<HostState>> {
        read(self.applied.clone()).await
    }

    pub(crate) async fn write_state(&self, state: &HostState) -> anyhow::Result<()> {
        write(self.state.clone(), state).await
    }

    pub(crate) async fn write_applied(&self, state: &HostState) -> anyhow::Result<()> {
        write(self.applied.clone(), state).await
    }
}

async fn write(path: PathBuf, state: &HostState) -> anyhow::Result<()> {
    let bytes = prost::Message::encode_to_vec(state);
    tokio::task::spawn_blocking(move || write_durably(&path, &bytes, 0o600)).await??;
    Ok(())
}

/// A file that cannot be read is put aside: the whole state can be had again
/// from the network service.
async fn read(path: PathBuf) -> anyhow::Result<Option<HostState>> {
    let state = tokio::task::spawn_blocking(move || -> io::Result<Option<HostState>> {
        let Some(bytes) = read_if_there(&path)? else {
            return Ok(None);
        };
        match prost::Message::decode(bytes.as_slice()) {
            Ok(state) => Ok(Some(state)),
            Err(error) => {
                let aside = path.with_extension("broken");
                tracing::error!(file = %path.display(), %error, "a broken state file is put aside");
                std::fs::rename(&path, aside)?;
                Ok(None)
            }
        }
    })
    .await??;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::model::tests::sample;

    #[tokio::test]
    async fn a_broken_file_is_put_aside() {
        let folder = std::env::temp_dir().join(format!("yk-agent-state-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = StateFiles::new(&folder);
        assert_eq!(files.read_state().await.unwrap(), None);
        files.write_state(&sample()).await.unwrap();
        assert_eq!(files.read_state().await.unwrap(), Some(sample()));
        std::fs::write(folder.join("state"), [0xff; 9]).unwrap();
        assert_eq!(files.read_state().await.unwrap(), None);
        assert!(folder.join("state.broken").exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
