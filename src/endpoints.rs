//! The catalog of a cloud whose configuration names none: every API at the
//! address on which it listens.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use yakumo_identity::EndpointConfig;

use crate::config::Config;

/// An address that clients on this machine can use.
pub fn url(listen: SocketAddr) -> String {
    let ip = if listen.ip().is_unspecified() {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        listen.ip()
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// One entry for each API.
pub fn catalog(config: &Config) -> BTreeMap<String, EndpointConfig> {
    let identity = match config.identity.public_url.trim_end_matches('/') {
        "" => url(config.identity.listen),
        public => public.to_owned(),
    };
    [
        ("identity", format!("{identity}/v3")),
        (
            "compute",
            format!("{}/v2.1", url(config.api.compute_listen)),
        ),
        ("network", url(config.api.network_listen)),
        (
            "volumev3",
            format!("{}/v3/$(project_id)s", url(config.api.volume_listen)),
        ),
        ("image", url(config.image.listen)),
        (
            "object-store",
            format!("{}/v1/AUTH_$(project_id)s", url(config.object_store.listen)),
        ),
    ]
    .into_iter()
    .map(|(kind, public)| {
        (
            kind.to_owned(),
            EndpointConfig {
                public,
                ..EndpointConfig::default()
            },
        )
    })
    .collect()
}
