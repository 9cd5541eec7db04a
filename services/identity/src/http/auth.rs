//! `/auth`: tokens, and what one can have tokens for.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yakumo_http::{
    Auth, BaseUrl, HttpResult, NoKey, QueryPairs, StrictJson, empty, json_response, ok,
};
use yakumo_types::Fault;

use super::{Shared, domains, list_document, projects, whole};
use crate::app::{
    App, AuthRequest, CatalogService, DomainRef, ProjectRef, Proof, ScopeRequest, TokenView,
    UserRef, ids,
};

const SUBJECT: HeaderName = HeaderName::from_static("x-subject-token");

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/auth/tokens", get(show).post(create).delete(revoke))
        .route("/auth/catalog", get(catalog))
        .route("/auth/projects", get(my_projects))
        .route("/auth/domains", get(my_domains))
        .route("/auth/system", get(my_system))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    auth: AuthBody,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthBody {
    identity: IdentityBody,
    #[serde(default)]
    scope: Option<Value>,
}

#[derive(Deserialize)]
struct IdentityBody {
    methods: Vec<String>,
    #[serde(default)]
    password: Option<PasswordBody>,
    #[serde(default)]
    token: Option<TokenBody>,
    /// What other methods need, under their names.
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PasswordBody {
    user: UserBody,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserBody {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    domain: Option<NamedBody>,
    password: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedBody {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ScopeBody {
    project: Option<ProjectBody>,
    domain: Option<NamedBody>,
    system: Option<SystemBody>,
    unscoped: Option<Value>,
    #[serde(rename = "OS-TRUST:trust")]
    trust: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProjectBody {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    domain: Option<NamedBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SystemBody {
    all: bool,
}

fn domain_ref(body: Option<NamedBody>, place: &str) -> Result<DomainRef, Fault> {
    match body {
        Some(NamedBody { id: Some(id), .. }) => Ok(DomainRef::Id(id)),
        Some(NamedBody {
            name: Some(name), ..
        }) => Ok(DomainRef::Name(name)),
        _ => Err(Fault::invalid(format!(
            "Invalid input for {place}.domain: a name alone is not enough, the id or the name of its domain is needed."
        ))),
    }
}

fn proof(body: IdentityBody) -> Result<Proof, Fault> {
    // A method that is not offered brings its own member, and is refused as a
    // method; everything else that is not known is a mistake.
    if let Some(name) = body
        .others
        .keys()
        .find(|name| !body.methods.contains(*name))
    {
        return Err(Fault::invalid(format!(
            "Invalid input for auth.identity: {name:.64} is none of its methods."
        )));
    }
    match body.methods.as_slice() {
        [] => Err(Fault::invalid(
            "Invalid input for auth.identity.methods: none is given.",
        )),
        [one] if one == "password" => {
            let user = body
                .password
                .ok_or_else(|| {
                    Fault::invalid("Invalid input for auth.identity.password: it is missing.")
                })?
                .user;
            let who = match (user.id, user.name) {
                (Some(id), _) => UserRef::Id(id),
                (None, Some(name)) => UserRef::Name(
                    name,
                    domain_ref(user.domain, "auth.identity.password.user")?,
                ),
                (None, None) => {
                    return Err(Fault::invalid(
                        "Invalid input for auth.identity.password.user: id or name is needed.",
                    ));
                }
            };
            Ok(Proof::Password(who, user.password))
        }
        [one] if one == "token" => {
            let token = body.token.ok_or_else(|| {
                Fault::invalid("Invalid input for auth.identity.token: it is missing.")
            })?;
            Ok(Proof::Token(token.id))
        }
        _ => Err(Fault::unauthorized(
            "Attempted to authenticate with an unsupported method: password and token are offered.",
        )),
    }
}

fn scope(body: Option<Value>) -> Result<Option<ScopeRequest>, Fault> {
    let body = match body {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(word)) if word == "unscoped" => return Ok(Some(ScopeRequest::Unscoped)),
        Some(Value::Array(_)) => {
            return Err(Fault::invalid(
                "Invalid input for auth.scope: it must be an object.",
            ));
        }
        Some(value) => ScopeBody::deserialize(value)
            .map_err(|error| Fault::invalid(format!("Invalid input for auth.scope: {error}.")))?,
    };
    let wanted = [
        body.project.is_some(),
        body.domain.is_some(),
        body.system.is_some(),
        body.unscoped.is_some(),
        body.trust.is_some(),
    ];
    if wanted.iter().filter(|wanted| **wanted).count() != 1 {
        return Err(Fault::invalid(
            "Invalid input for auth.scope: exactly one of project, domain, system or unscoped is needed.",
        ));
    }
    if body.trust.is_some() {
        return Err(Fault::not_implemented(
            "Trusts are not offered by this cloud.",
        ));
    }
    if let Some(project) = body.project {
        let which = match (project.id, project.name) {
            (Some(id), _) => ProjectRef::Id(id),
            (None, Some(name)) => {
                ProjectRef::Name(name, domain_ref(project.domain, "auth.scope.project")?)
            }
            (None, None) => {
                return Err(Fault::invalid(
                    "Invalid input for auth.scope.project: id or name is needed.",
                ));
            }
        };
        return Ok(Some(ScopeRequest::Project(which)));
    }
    if let Some(domain) = body.domain {
        return Ok(Some(ScopeRequest::Domain(domain_ref(
            Some(domain),
            "auth.scope",
        )?)));
    }
    if let Some(system) = body.system {
        return if system.all {
            Ok(Some(ScopeRequest::System))
        } else {
            Err(Fault::invalid(
                "Invalid input for auth.scope.system.all: it must be true.",
            ))
        };
    }
    Ok(Some(ScopeRequest::Unscoped))
}

async fn create(
    State(app): Shared,
    query: QueryPairs,
    _: NoKey,
    StrictJson(body): StrictJson<Body>,
) -> HttpResult<Response> {
    let request = AuthRequest {
        proof: proof(body.auth.identity)?,
        scope: scope(body.auth.scope)?,
    };
    let issued = app.authenticate(&request, !query.has("nocatalog")).await?;
    let mut response = json_response(StatusCode::CREATED, &token_document(&issued.view));
    with_subject(&mut response, &issued.token);
    Ok(response)
}

fn with_subject(response: &mut Response, token: &str) {
    if let Ok(value) = HeaderValue::from_str(token) {
        response.headers_mut().insert(SUBJECT, value);
    }
}

fn subject(headers: &HeaderMap) -> Result<&str, Fault> {
    headers
        .get(SUBJECT)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| Fault::invalid("The header X-Subject-Token is needed."))
}

async fn show(
    State(app): Shared,
    Auth(ctx): Auth,
    query: QueryPairs,
    headers: HeaderMap,
) -> HttpResult<Response> {
    let subject = subject(&headers)?;
    let catalog = !query.has("nocatalog");
    let render = |view: &TokenView| Bytes::from(token_document(view).to_string());
    let document = app.show_token(&ctx, subject, catalog, render).await?;
    let json = HeaderValue::from_static("application/json");
    let mut response = ([(header::CONTENT_TYPE, json)], document).into_response();
    with_subject(&mut response, subject);
    Ok(response)
}

async fn revoke(State(app): Shared, Auth(ctx): Auth, headers: HeaderMap) -> HttpResult<Response> {
    app.revoke_token(&ctx, subject(&headers)?).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

fn token_document(view: &TokenView) -> Value {
    let claims = &view.claims;
    let mut audit_ids = vec![claims.jti.clone()];
    audit_ids.extend(claims.parent.clone());
    let mut token = Map::new();
    let mut put = |name: &str, value: Value| {
        token.insert(name.to_owned(), value);
    };
    put("methods", json!(claims.methods));
    put(
        "user",
        json!({
            "id": claims.sub.simple(),
            "name": claims.user_name,
            "domain": {
                "id": ids::shown(&claims.user_domain_id.to_string()),
                "name": view.user_domain_name,
            },
            "password_expires_at": null,
        }),
    );
    put("audit_ids", json!(audit_ids));
    put("expires_at", json!(claims.expires_at().iso_micros_z()));
    put("issued_at", json!(claims.issued_at().iso_micros_z()));
    if let Some(project) = &claims.project {
        put(
            "project",
            json!({
                "id": project.id.simple(),
                "name": project.name,
                "domain": {
                    "id": ids::shown(&project.domain_id.to_string()),
                    "name": view.scope_domain_name,
                },
            }),
        );
        put("is_domain", json!(false));
    }
    if let Some(domain) = &claims.domain_id {
        put(
            "domain",
            json!({"id": ids::shown(&domain.to_string()), "name": view.scope_domain_name}),
        );
    }
    if claims.system {
        put("system", json!({"all": true}));
    }
    if claims.project.is_some() || claims.domain_id.is_some() || claims.system {
        let roles: Vec<Value> = view
            .roles
            .iter()
            .map(|role| json!({"id": ids::shown(&role.id), "name": role.name}))
            .collect();
        put("roles", Value::Array(roles));
    }
    if let Some(catalog) = &view.catalog {
        put("catalog", catalog_value(catalog));
    }
    json!({ "token": token })
}

fn catalog_value(catalog: &[CatalogService]) -> Value {
    catalog
        .iter()
        .map(|entry| {
            let endpoints: Vec<Value> = entry
                .endpoints
                .iter()
                .map(|endpoint| {
                    json!({
                        "id": ids::shown(&endpoint.id),
                        "interface": endpoint.interface,
                        "region": endpoint.region_id,
                        "region_id": endpoint.region_id,
                        "url": endpoint.url,
                    })
                })
                .collect();
            json!({
                "id": ids::shown(&entry.service.id),
                "type": entry.service.kind,
                "name": entry.service.name,
                "endpoints": endpoints,
            })
        })
        .collect()
}

async fn catalog(State(app): Shared, Auth(ctx): Auth, base: BaseUrl) -> HttpResult<Response> {
    let catalog = app.my_catalog(&ctx).await?;
    Ok(ok(&json!({
        "catalog": catalog_value(&catalog),
        "links": {"self": base.join("/v3/auth/catalog"), "previous": null, "next": null},
    })))
}

async fn my_projects(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    query: QueryPairs,
) -> HttpResult<Response> {
    let found = whole(app.my_projects(&ctx).await?);
    let document = list_document("projects", found, &base, &query, |row| {
        projects::document(row, &base)
    });
    Ok(ok(&document))
}

async fn my_domains(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    query: QueryPairs,
) -> HttpResult<Response> {
    let found = whole(app.my_domains(&ctx).await?);
    let document = list_document("domains", found, &base, &query, |row| {
        domains::document(row, &base)
    });
    Ok(ok(&document))
}

async fn my_system(State(app): Shared, Auth(ctx): Auth, base: BaseUrl) -> HttpResult<Response> {
    let system = if app.my_system(&ctx).await? {
        json!([{"all": true}])
    } else {
        json!([])
    };
    Ok(ok(&json!({
        "system": system,
        "links": {"self": base.join("/v3/auth/system")},
    })))
}
