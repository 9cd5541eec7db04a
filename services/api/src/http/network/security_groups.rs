//! `/security-groups`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use yakumo_contracts::network::{
    CreateSecurityGroupsRequest, IdRequest, NewSecurityGroup, SecurityGroup,
    UpdateSecurityGroupRequest,
};
use yakumo_http::{
    Auth, BaseUrl, HttpResult, KeyedJson, Path, QueryPairs, StrictJson, created, empty, ok,
};
use yakumo_types::{Fault, RequestContext};

use super::NetworkState;
use super::listing::{Listing, by_id, fields, not_found, shown};
use super::shape::{created_document, one_or_many, owner, select, standard, wrapped};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    security_group: Option<NewBody>,
    security_groups: Option<Vec<NewBody>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBody {
    name: Option<String>,
    description: Option<String>,
    stateful: Option<bool>,
    project_id: Option<String>,
    tenant_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    security_group: Changes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    name: Option<String>,
    description: Option<String>,
    stateful: Option<bool>,
}

fn check_stateful(stateful: Option<bool>) -> Result<(), Fault> {
    if stateful == Some(false) {
        return Err(Fault::invalid("Security groups are stateful here."));
    }
    Ok(())
}

fn read(body: NewBody) -> Result<NewSecurityGroup, Fault> {
    check_stateful(body.stateful)?;
    Ok(NewSecurityGroup {
        project_id: owner(body.project_id, body.tenant_id)?,
        name: body.name.unwrap_or_default(),
        description: body.description.unwrap_or_default(),
    })
}

fn render(it: SecurityGroup, ctx: &RequestContext) -> Value {
    let rules: Vec<Value> = it
        .security_group_rules
        .into_iter()
        .map(|rule| super::security_group_rules::render(rule, ctx))
        .collect();
    let mut document = json!({
        "id": it.id,
        "name": it.name,
        "description": it.description,
        "stateful": true,
        "shared": false,
        "security_group_rules": rules,
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

/// `GET /security-groups`
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
            "/v2.0/security-groups",
            "security_groups",
            |request| async {
                let reply = state.networks.list_security_groups(&ctx, request).await?;
                Ok((
                    reply
                        .security_groups
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

/// `GET /security-groups/{id}`
pub async fn show(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    query: QueryPairs,
) -> HttpResult<Response> {
    let found = state
        .networks
        .list_security_groups(&ctx, by_id(&id))
        .await?
        .security_groups;
    let it = shown(found, || {
        not_found("SecurityGroupNotFound", "Security group", &id)
    })?;
    Ok(ok(&wrapped(
        "security_group",
        select(render(it, &ctx), &fields(&query)),
    )))
}

/// `DELETE /security-groups/{id}`
pub async fn delete(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
) -> HttpResult<Response> {
    state
        .networks
        .delete_security_group(&ctx, IdRequest { id })
        .await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /security-groups`
pub async fn create(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    KeyedJson(body, key): KeyedJson<CreateBody>,
) -> HttpResult<Response> {
    let (new, bulk) = one_or_many(body.security_group, body.security_groups)?;
    let security_groups = new.into_iter().map(read).collect::<Result<_, _>>()?;
    let request = CreateSecurityGroupsRequest {
        security_groups,
        idempotency_key: Some(key.or_own(&ctx).into()),
    };
    let reply = state.networks.create_security_groups(&ctx, request).await?;
    let documents = reply
        .security_groups
        .into_iter()
        .map(|it| render(it, &ctx))
        .collect();
    Ok(created(&created_document(
        "security_group",
        "security_groups",
        documents,
        bulk,
    )?))
}

/// `PUT /security-groups/{id}`
pub async fn update(
    State(state): State<NetworkState>,
    Auth(ctx): Auth,
    Path(id): Path<String>,
    StrictJson(body): StrictJson<UpdateBody>,
) -> HttpResult<Response> {
    let changes = body.security_group;
    check_stateful(changes.stateful)?;
    let request = UpdateSecurityGroupRequest {
        id,
        name: changes.name,
        description: changes.description,
    };
    let it = state.networks.update_security_group(&ctx, request).await?;
    Ok(ok(&wrapped("security_group", render(it, &ctx))))
}
