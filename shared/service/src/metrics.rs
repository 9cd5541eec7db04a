//! Metrics: libraries count through the `metrics` macros, the program installs
//! the recorder once and shows it as Prometheus text.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// The recorder of this program.
#[derive(Clone, Debug)]
pub struct MetricsHandle {
    handle: PrometheusHandle,
}

impl MetricsHandle {
    /// Everything that was counted, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }

    /// Folds raw observations into histograms; call it every few seconds,
    /// because memory grows with the observations since the last time.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// Latencies from a tenth of a millisecond to half a minute, in seconds.
const LATENCIES: &[f64] = &[
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0,
    3.0, 5.0, 10.0, 30.0,
];

/// Installs the recorder; the second and later calls return the first one's.
pub fn install_metrics() -> anyhow::Result<MetricsHandle> {
    static INSTALLED: OnceLock<Result<MetricsHandle, String>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        PrometheusBuilder::new()
            .set_buckets(LATENCIES)
            .and_then(PrometheusBuilder::install_recorder)
            .map(|handle| MetricsHandle { handle })
            .map_err(|error| error.to_string())
    });
    match installed {
        Ok(handle) => Ok(handle.clone()),
        Err(error) => anyhow::bail!("cannot install the metrics recorder: {error}"),
    }
}
