//! A short while of `cargo xtask chaos`.

use std::time::Duration;

use yakumo_db::Backend;
use yakumo_integration::chaos::{self, Plan};

use crate::alone;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_minute_of_it_breaks_nothing_for_good() -> anyhow::Result<()> {
    let _turn = alone().await;
    let plan = Plan {
        lasts: Duration::from_secs(30),
        seed: 1,
        database: Backend::Postgres,
        users: 3,
        outage_every: Duration::from_secs(14),
        // Other tests have the machine at the same time.
        quiet: Duration::from_secs(45),
    };
    let outcome = chaos::run(&plan, &|what| println!("{what}")).await?;
    println!("{outcome:#?}");
    assert!(outcome.requests > 20, "nobody asked for anything");
    assert!(outcome.faults >= 5, "nothing was broken");
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    Ok(())
}
