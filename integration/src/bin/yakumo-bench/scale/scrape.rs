//! The schedulers' own histogram of how old what they hear is.

use anyhow::{Context as _, Result};
use yakumo_integration::cloud::TestCloud;

const NAME: &str = "yakumo_scheduler_view_age_seconds_bucket";

/// How many reports were not older than so many seconds.
#[derive(Debug, Default, Clone)]
pub struct Ages(Vec<(f64, f64)>);

impl Ages {
    /// Up to now.
    pub async fn now(cloud: &TestCloud) -> Result<Self> {
        let url = format!("http://127.0.0.1:{}/metrics", cloud.ops("scheduler")?);
        let client = reqwest::Client::builder().no_proxy().build()?;
        let text = client.get(url).send().await?.text().await?;
        let mut all = Vec::new();
        for line in text.lines().filter(|line| line.starts_with(NAME)) {
            let (head, value) = line.rsplit_once(' ').context("a metric without a value")?;
            let bound = head.split('"').nth(1).context("a bucket without a bound")?;
            let bound = match bound {
                "+Inf" => f64::INFINITY,
                bound => bound.parse()?,
            };
            all.push((bound, value.parse()?));
        }
        all.sort_by(|a: &(f64, f64), b| a.0.total_cmp(&b.0));
        Ok(Self(all))
    }

    /// What was added since.
    pub fn since(self, before: &Self) -> Self {
        let earlier = |bound: f64| {
            let found = before.0.iter().find(|(other, _)| *other == bound);
            found.map_or(0.0, |(_, count)| *count)
        };
        Self(
            self.0
                .into_iter()
                .map(|(bound, count)| (bound, count - earlier(bound)))
                .collect(),
        )
    }

    /// The age that `share` of the reports were not above, as far as the buckets
    /// tell. Seconds.
    pub fn percentile(&self, share: f64) -> f64 {
        let all = self.0.last().map_or(0.0, |(_, count)| *count);
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in &self.0 {
            if *count >= all * share {
                if bound.is_infinite() || *count <= below {
                    return low;
                }
                return low + (bound - low) * (all * share - below) / (count - below);
            }
            (low, below) = (*bound, *count);
        }
        f64::NAN
    }
}
