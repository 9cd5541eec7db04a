//! `GET /info`: bounds and abilities, which clients read before they choose
//! how to upload. What is not here (large object manifests, temporary URLs,
//! bulk requests, versions) is not named.

use axum::extract::State;
use axum::response::Response;
use serde_json::json;
use yakumo_http::ok;

use crate::app::{ObjectStore, metadata, names};

/// 200.
pub async fn show(State(store): State<ObjectStore>) -> Response {
    let config = store.config();
    ok(&json!({
        "swift": {
            "version": env!("CARGO_PKG_VERSION"),
            "max_file_size": config.max_object_bytes,
            "max_object_name_length": names::OBJECT_BYTES,
            "max_container_name_length": names::CONTAINER_BYTES,
            "max_account_name_length": 256,
            "max_meta_name_length": metadata::NAME,
            "max_meta_value_length": metadata::VALUE,
            "max_meta_count": metadata::COUNT,
            "max_meta_overall_size": metadata::TOTAL,
            "max_header_size": 8192,
            "account_listing_limit": config.max_listing,
            "container_listing_limit": config.max_listing,
            "allow_account_management": false,
            "account_autocreate": true,
            "strict_cors_mode": true,
            "policies": [{"name": "default", "default": true, "aliases": "default"}],
        },
        "container_quotas": {},
    }))
}
