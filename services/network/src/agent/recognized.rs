//! A host that may not speak for its name: another one has it, or nobody has said
//! yet. What it was told is kept real, and the control plane is left alone.

use yakumo_service::HealthHandle;

use super::Agent;
use super::wanted::Stale;

/// Another host of this name has another state, and its own reports.
const UNRECOGNIZED: &str = "the control plane has not said that this is the host of its name";

impl Agent {
    /// Waits until the agent may speak for its host, and keeps the host as it was
    /// told meanwhile. False if the process ends first.
    pub(super) async fn wait_for_recognition(&self, health: &HealthHandle) -> bool {
        // It comes within moments, unless something is wrong.
        let mut patience = self.settings.announce;
        let mut late = false;
        loop {
            tokio::select! {
                () = self.settings.recognition.given() => break,
                () = self.process.env.clock.sleep(patience) => {}
                () = self.process.shutdown.cancelled() => return false,
            }
            (patience, late) = (self.settings.resync, true);
            health.degraded(UNRECOGNIZED);
            if let Err(error) = self.hold().await {
                let error = format!("{error:#}");
                tracing::warn!(host = %self.settings.host, error, "the kept state could not be made real");
            }
        }
        if late {
            health.up();
        }
        true
    }

    /// Makes the whole host be as it was told, and says nothing of it.
    async fn hold(&self) -> anyhow::Result<()> {
        let mut wanted = self.wanted.lock().await;
        if let Some(wanted) = wanted.as_mut() {
            wanted.stale = Stale::All;
            self.apply(wanted).await?;
        }
        Ok(())
    }
}
