//! Machines whose clocks do not agree.

use std::time::Duration;

use yakumo_rpc::{Bus, Target, Topic};
use yakumo_testing::clock::WallClock;

use crate::support::*;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_clock_is_an_hour_off_asks_and_is_asked() {
    let world = World::new(Transport::Amqp).await;
    let (clock, env) = WallClock::env();
    let (broker, ..) = broker().await;
    let off = Bus::connect(config(&broker.url()), env, seal());
    let off = off.await.unwrap();
    let _here = world.serve(Test::echo()).await;
    let there = fresh_topic();
    let served = off.serve(Topic::Control(there), vec![Test::echo()], options());
    let _there = served.await.unwrap();
    for put in [WallClock::put_back, WallClock::put_forward] {
        put(&clock, HOUR);
        for (from, to) in [
            (&off, world.target()),
            (&world.control, Target::service(there)),
        ] {
            let (ctx, echo) = (tenant(), b"echo".to_vec());
            let asked = from.call(&ctx, &to, method("Do"), echo, BOUND);
            assert_eq!(asked.await.unwrap(), b"echo");
        }
    }
}
