//! `/security-group-rules`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_contracts::network::{CreateSecurityGroupRulesRequest, IdRequest, SecurityGroupRule};
use yakumo_http::{Auth, BaseUrl, HttpResult, KeyedJson, Path, QueryPairs, created, empty, ok};
use yakumo_types::{Fault, RequestContext};

use super::NetworkState;
use super::listing::{Listing, by_id, fields, not_found, shown};
use super::shape::{
    Number, created_document, nullable, one_or_many, owner, select, standard, wrapped,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    security_group_rule: Option<NewBody>,
    security_group_rules: Option<Vec<NewBody>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Protocol {
    Name(String),
    Number(i64),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBody {
    security_group_id: String,
    direction: String,
    ethertype: Option<String>,
    protocol: Option<Protocol>,
    port_range_min: Option<Number>,
    port_range_max: Option<Number>,
    remote_ip_prefix: Option<String>,
    remote_group_id: Option<String>,
    remote_address_group_id: Option<String>,
    description: Option<String>,
    project_id: Option<String>,
    tenant_id: Option<String>,
}

fn read(body: NewBody) -> Result<SecurityGroupRule, Fault> {
    if body.remote_address_group_id.is_some() {
        return Err(Fault::invalid("Address groups are not offered here."));
    }
    Ok(SecurityGroupRule {
        project_id: owner(body.project_id, body.tenant_id)?,
        security_group_id: body.security_group_id,
        direction: body.direction,
        ethertype: body.ethertype.unwrap_or_default(),
        protocol: match body.protocol {
            None => String::new(),
            Some(Protocol::Name(name)) => name,
            Some(Protocol::Number(number)) => number.to_string(),
        },
        port_range_min: body
            .port_range_min
            .map(|port| port.read("port_range_min"))
            .transpose()?,
        port_range_max: body
            .port_range_max
            .map(|port| port.read("port_range_max"))
            .transpose()?,
        remote_ip_prefix: body.remote_ip_prefix.unwrap_or_default(),
        remote_group_id: body.remote_group_id.unwrap_or_default(),
        description: body.description.unwrap_or_default(),
        ..SecurityGroupRule::default()
    })
}

/// A rule as a document; groups show theirs in the same form.
pub(super) fn render(it: SecurityGroupRule, _ctx: &RequestContext) -> Value {
    let mut document = json!({
        "id": it.id,
        "security_group_id": it.security_group_id,
        "direction": it.direction,
        "ethertype": it.ethertype,
        "protocol": nullable(&it.protocol),
        "port_range_min": it.port_range_min,
        "port_range_max": it.port_range_max,
        "remote_ip_prefix": nullable(&it.remote_ip_prefix),
        "remote_group_id": nullable(&it.remote_group_id),
        "remote_address_group_id": null,
        "normalized_cidr": nullable(&it.remote_ip_prefix),
        "description": it.description,
    });
    standard(
        &mut document,
        &it.project_id,
        it.created_at,
        it.updated_at,
        it.revision_number,
    );
    document
}

/// `GET /security-group-rules`
pub async fn list(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    query: QueryPairs,
    base: BaseUrl,
) -> HttpResult<Response> {
    let listing = Listing::read(&query)?;
    let document = listing
        .run(
            &base,
            "/v2.0/security-group-rules",
            "security_group_rules",
            |request| async {
                let reply = state
                    .networks
                    .list_security_group_rules(&ctx, request)
                    .await?;
                Ok((
                    reply
                        .security_group_rules
                        .into_iter()
                        .map(|it| render(it, &ctx))
                        .collect(),
                    reply.more,
                ))
            },
        )
        .await?;
    Ok(ok(&document))
}

/// `GET /security-group-rules/{id}`
pub async fn show(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    query: QueryPairs,
) -> HttpResult<Response> {
    let found = state
        .networks
        .list_security_group_rules(&ctx, by_id(&id))
        .await?
        .security_group_rules;
    let it = shown(found, || {
        not_found("SecurityGroupRuleNotFound", "Security group rule", &id)
    })?;
    Ok(ok(&wrapped(
        "security_group_rule",
        select(render(it, &ctx), &fields(&query)),
    )))
}

/// `DELETE /security-group-rules/{id}`
pub async fn delete(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    state
        .networks
        .delete_security_group_rule(&ctx, IdRequest { id })
        .await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /security-group-rules`
pub async fn create(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    KeyedJson(body, key): KeyedJson<CreateBody>,
) -> HttpResult<Response> {
    let (new, bulk) = one_or_many(body.security_group_rule, body.security_group_rules)?;
    let security_group_rules = new.into_iter().map(read).collect::<Result<_, _>>()?;
    let request = CreateSecurityGroupRulesRequest {
        security_group_rules,
        idempotency_key: Some(key.or_own(&ctx).into()),
    };
    let reply = state
        .networks
        .create_security_group_rules(&ctx, request)
        .await?;
    let documents = reply
        .security_group_rules
        .into_iter()
        .map(|it| render(it, &ctx))
        .collect();
    Ok(created(&created_document(
        "security_group_rule",
        "security_group_rules",
        documents,
        bulk,
    )?))
}
