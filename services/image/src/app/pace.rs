//! How slow an upload may be.

use std::time::Duration;

use yakumo_types::Fault;

/// Keeps an account of how long an upload was waited for. A client that sends a
/// crumb now and then never stands still, and would keep its place for ever;
/// so there is a least average as well.
pub struct Pace {
    waited: Duration,
    grace: Duration,
    /// Bytes per second; 0 for no bound.
    least: u64,
}

impl Pace {
    /// `least` bytes per second on average, not counting `grace`.
    pub fn new(least: u64, grace: Duration) -> Self {
        Self {
            waited: Duration::ZERO,
            grace,
            least,
        }
    }

    /// Says that the client was waited for once more. Time that our own disk
    /// takes is not the client's, and does not belong here.
    pub fn waited(&mut self, time: Duration) {
        self.waited = self.waited.saturating_add(time);
    }

    /// Refuses an upload that has brought no more than `received` bytes so far,
    /// if those are too few.
    pub fn check(&self, received: u64) -> Result<(), Fault> {
        let counted = self.waited.saturating_sub(self.grace).as_secs();
        if self.least > 0 && received / self.least < counted {
            return Err(Fault::invalid(format!(
                "The upload is too slow: it must bring at least {} bytes per second.",
                self.least
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crumbs_are_not_enough() {
        let mut pace = Pace::new(1_000, Duration::from_secs(60));
        pace.waited(Duration::from_secs(60));
        assert!(pace.check(1).is_ok());
        pace.waited(Duration::from_secs(2));
        assert!(pace.check(1_999).is_err());
        assert!(pace.check(2_000).is_ok());
        pace.waited(Duration::MAX);
        assert!(pace.check(u64::MAX / 2).is_err());
        let mut free = Pace::new(0, Duration::ZERO);
        free.waited(Duration::MAX);
        assert!(free.check(0).is_ok());
    }
}
