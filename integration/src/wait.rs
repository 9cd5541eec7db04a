//! Waiting for conditions, each within a bound.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const BETWEEN: Duration = Duration::from_millis(50);

/// What a look at the world said.
pub enum Look<T> {
    /// It is so.
    Yes(T),
    /// Not yet; what is there instead is told if time runs out.
    NotYet(String),
}

/// Looks again and again until it is so, at most for `bound`; an error ends it.
pub async fn until<T, F>(what: &str, bound: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Look<T>>>,
{
    let begun = Instant::now();
    loop {
        match look().await? {
            Look::Yes(value) => return Ok(value),
            Look::NotYet(instead) if begun.elapsed() > bound => {
                bail!("after {bound:?} still not {what}; instead: {instead}")
            }
            Look::NotYet(_) => tokio::time::sleep(BETWEEN).await,
        }
    }
}

/// `Yes` if the two are the same.
pub fn same<T: PartialEq + Debug>(found: T, wanted: &T) -> Look<T> {
    if found == *wanted {
        Look::Yes(found)
    } else {
        Look::NotYet(format!("{found:?}"))
    }
}

/// Holds still, where nothing can be waited for: something must *not* happen.
pub async fn hold_still(duration: Duration) {
    tokio::time::sleep(duration).await;
}
