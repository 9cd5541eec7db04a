//! `/v2/info/…`: what clients may expect of this service.

use axum::extract::State;
use axum::response::Response;
use serde_json::json;
use yakumo_http::{Auth, HttpResult, ok};

use crate::app::Images;

/// `GET /v2/info/import`: there are no import methods; data is uploaded by
/// PUT. An empty list is how clients are told.
pub async fn import(Auth(_): Auth) -> HttpResult<Response> {
    Ok(ok(&json!({
        "import-methods": {
            "description": "Import methods available.",
            "type": "array",
            "value": [],
        }
    })))
}

/// `GET /v2/info/stores`: one.
pub async fn stores(State(app): State<Images>, Auth(_): Auth) -> HttpResult<Response> {
    Ok(ok(&json!({
        "stores": [{"id": app.store_name(), "description": "Image data", "default": "true"}]
    })))
}
