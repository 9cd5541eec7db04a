//! Whether a process is the host whose name it has, by the control plane's word.
//!
//! One agent of a host asks, by registering; the others speak for the host only
//! while the answer stands. A broker user is a host's name and no more: of two
//! machines under one name, the broker lets either speak.

use tokio::sync::watch;

/// See the module; a cheap handle.
#[derive(Debug, Clone)]
pub struct Recognition(Option<watch::Receiver<bool>>);

impl Recognition {
    /// Where nobody asks.
    pub fn always() -> Self {
        Self(None)
    }

    /// What somebody says who asks.
    pub fn of(word: watch::Receiver<bool>) -> Self {
        Self(Some(word))
    }

    /// Whether it is given now.
    pub fn is_given(&self) -> bool {
        self.0.as_ref().is_none_or(|word| *word.borrow())
    }

    /// Waits until it is given.
    pub async fn given(&self) {
        let Some(mut word) = self.0.clone() else {
            return;
        };
        let lost = word.wait_for(|given| *given).await.is_err();
        if lost {
            // Nobody will ask any more: the process ends.
            std::future::pending::<()>().await;
        }
    }
}
