//! `GET /v2/images`

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};
use yakumo_http::{Auth, HttpResult, QueryPairs, ok};

use crate::app::{Images, query};
use crate::http::render;

/// 200 with one page; `first` and `next` are relative to the host, and there
/// is no `next` behind a page that is not full.
pub async fn handle(
    State(app): State<Images>,
    Auth(ctx): Auth,
    pairs: QueryPairs,
) -> HttpResult<Response> {
    let config = app.config();
    let query = query::parse(&pairs.0, config.default_page, config.max_page)?;
    let images = app.list(&ctx, &query).await?;
    let documents: Vec<Value> = images.iter().map(render::image).collect();
    let mut first = pairs.clone();
    first.0.retain(|(name, _)| name != "marker");
    let mut document = json!({
        "images": documents,
        "first": link(&first),
        "schema": "/v2/schemas/images",
    });
    let full = u64::try_from(images.len()).is_ok_and(|count| count >= query.limit);
    if let (true, Some(last), Some(fields)) = (full, images.last(), document.as_object_mut()) {
        let next = format!("/v2/images?{}", pairs.with("marker", &last.id.to_string()));
        fields.insert("next".into(), next.into());
    }
    Ok(ok(&document))
}

fn link(pairs: &QueryPairs) -> String {
    match pairs.0.split_last() {
        None => "/v2/images".to_owned(),
        Some(((name, value), rest)) => {
            let rest = QueryPairs(rest.to_vec());
            // `with` replaces what it sets; a name may come several times.
            let last = QueryPairs::default().with(name, value);
            let mut text = String::from("/v2/images?");
            for (name, value) in &rest.0 {
                text.push_str(&QueryPairs::default().with(name, value));
                text.push('&');
            }
            text.push_str(&last);
            text
        }
    }
}
