//! `/role_assignments`: who has which role on what.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Map, Value, json};
use yakumo_http::{Auth, BaseUrl, HttpResult, QueryPairs, ok};
use yakumo_types::Fault;

use super::{Shared, owned};
use crate::app::{App, AssignmentQuery, AssignmentView, ids};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/role_assignments", get(list))
        .route("/role_inferences", get(list_inferences))
}

async fn list(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
    query: QueryPairs,
) -> HttpResult<Response> {
    if query.has("scope.OS-INHERIT:inherited_to") {
        // Nothing is inherited in this cloud, so nothing is found.
        return Ok(ok(&document(Vec::new(), &base)));
    }
    if query.flag("include_subtree")? == Some(true) {
        return Err(Fault::not_implemented(
            "The assignments of a whole tree of projects are not offered by this cloud.",
        )
        .into());
    }
    let wanted = AssignmentQuery {
        user_id: owned(&query, "user.id"),
        group_id: owned(&query, "group.id"),
        role_id: owned(&query, "role.id"),
        project_id: owned(&query, "scope.project.id"),
        domain_id: owned(&query, "scope.domain.id"),
        system: query.has("scope.system"),
        effective: query.flag("effective")?.unwrap_or(false),
    };
    let names = query.flag("include_names")?.unwrap_or(false);
    let found = app.list_assignments(&ctx, &wanted).await?;
    let domains = if names {
        app.domain_names().await?
    } else {
        BTreeMap::new()
    };
    let shown = found
        .iter()
        .map(|view| render(view, names, &domains, &base))
        .collect();
    Ok(ok(&document(shown, &base)))
}

fn document(items: Vec<Value>, base: &BaseUrl) -> Value {
    json!({
        "role_assignments": items,
        "links": {"self": base.join("/v3/role_assignments"), "previous": null, "next": null},
    })
}

type Names = BTreeMap<String, String>;

fn named(id: &str, name: &str, domain: Option<&str>, names: bool, domains: &Names) -> Value {
    let mut out = Map::new();
    out.insert("id".into(), ids::shown(id).into());
    if names {
        out.insert("name".into(), name.into());
        if let Some(domain) = domain {
            let name = domains.get(domain).cloned().unwrap_or_default();
            out.insert(
                "domain".into(),
                json!({"id": ids::shown(domain), "name": name}),
            );
        }
    }
    Value::Object(out)
}

fn render(view: &AssignmentView, names: bool, domains: &Names, base: &BaseUrl) -> Value {
    let role = ids::shown(&view.role.id);
    let mut out = Map::new();
    let mut links = Map::new();
    out.insert(
        "role".into(),
        named(&view.role.id, &view.role.name, None, names, domains),
    );
    let actor = match (&view.user, &view.group) {
        (Some(user), via) => {
            out.insert(
                "user".into(),
                named(&user.id, &user.name, Some(&user.domain_id), names, domains),
            );
            match via {
                Some(group) => {
                    let path = format!(
                        "/v3/groups/{}/users/{}",
                        ids::shown(&group.id),
                        ids::shown(&user.id)
                    );
                    links.insert("membership".into(), base.join(&path).into());
                    format!("groups/{}", ids::shown(&group.id))
                }
                None => format!("users/{}", ids::shown(&user.id)),
            }
        }
        (None, Some(group)) => {
            out.insert(
                "group".into(),
                named(
                    &group.id,
                    &group.name,
                    Some(&group.domain_id),
                    names,
                    domains,
                ),
            );
            format!("groups/{}", ids::shown(&group.id))
        }
        (None, None) => String::new(),
    };
    let (scope, target) = match (&view.project, &view.domain) {
        (Some(project), _) => (
            json!({"project": named(&project.id, &project.name, Some(&project.domain_id), names, domains)}),
            format!("projects/{}", ids::shown(&project.id)),
        ),
        (None, Some(domain)) => (
            json!({"domain": named(&domain.id, &domain.name, None, names, domains)}),
            format!("domains/{}", ids::shown(&domain.id)),
        ),
        (None, None) => (json!({"system": {"all": true}}), "system".to_owned()),
    };
    out.insert("scope".into(), scope);
    let assigned = view.prior_role.as_deref().map(ids::shown);
    let path = format!(
        "/v3/{target}/{actor}/roles/{}",
        assigned.as_ref().unwrap_or(&role)
    );
    links.insert("assignment".into(), base.join(&path).into());
    if let Some(prior) = assigned {
        let path = format!("/v3/roles/{prior}/implies/{role}");
        links.insert("prior_role".into(), base.join(&path).into());
    }
    out.insert("links".into(), Value::Object(links));
    Value::Object(out)
}

async fn list_inferences(
    State(app): Shared,
    Auth(ctx): Auth,
    base: BaseUrl,
) -> HttpResult<Response> {
    let shown: Vec<Value> = app
        .list_inferences(&ctx)
        .await?
        .into_iter()
        .map(|(prior, implied)| {
            let named = |role: &crate::store::entity::role::Model| {
                json!({"id": ids::shown(&role.id), "name": role.name})
            };
            let implied: Vec<Value> = implied.iter().map(named).collect();
            json!({"prior_role": named(&prior), "implies": implied})
        })
        .collect();
    Ok(ok(&json!({
        "role_inferences": shown,
        "links": {"self": base.join("/v3/role_inferences")},
    })))
}
