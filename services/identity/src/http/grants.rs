//! `/projects|domains/{id}/users|groups/{id}/roles` and
//! `/system/users|groups/{id}/roles`: giving roles and taking them back.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use http::StatusCode;
use yakumo_http::{Auth, BaseUrl, HttpResult, Path, QueryPairs, empty, ok};
use yakumo_types::RequestContext;

use super::{Shared, list_document, roles, whole};
use crate::app::{Actor, App, GrantTarget};

pub(super) fn routes() -> Router<Arc<App>> {
    let mut router = Router::new();
    for (kind, target) in [
        (
            "projects",
            GrantTarget::Project as fn(String) -> GrantTarget,
        ),
        ("domains", GrantTarget::Domain),
    ] {
        for (actors, actor) in [
            ("users", Actor::User as fn(String) -> Actor),
            ("groups", Actor::Group),
        ] {
            let base = format!("/{kind}/{{target}}/{actors}/{{actor}}/roles");
            router = router
                .route(&base, on_target(target, actor))
                .route(&format!("{base}/{{role}}"), role_on_target(target, actor));
        }
    }
    for (actors, actor) in [
        ("users", Actor::User as fn(String) -> Actor),
        ("groups", Actor::Group),
    ] {
        let base = format!("/system/{actors}/{{actor}}/roles");
        router = router
            .route(&base, on_system(actor))
            .route(&format!("{base}/{{role}}"), role_on_system(actor));
    }
    router
}

type MakeTarget = fn(String) -> GrantTarget;
type MakeActor = fn(String) -> Actor;

fn on_target(target: MakeTarget, actor: MakeActor) -> MethodRouter<Arc<App>> {
    get(
        move |State(app): Shared,
              Auth(ctx): Auth,
              base: BaseUrl,
              Path((on, who)): Path<(String, String)>| async move {
            list(&app, &ctx, &base, &actor(who), &target(on)).await
        },
    )
}

fn on_system(actor: MakeActor) -> MethodRouter<Arc<App>> {
    get(
        move |State(app): Shared, Auth(ctx): Auth, base: BaseUrl, Path(who): Path<String>| async move {
            list(&app, &ctx, &base, &actor(who), &GrantTarget::System).await
        },
    )
}

type Three = Path<(String, String, String)>;
type Two = Path<(String, String)>;

fn role_on_target(target: MakeTarget, actor: MakeActor) -> MethodRouter<Arc<App>> {
    get(
        move |State(app): Shared, Auth(ctx): Auth, Path((on, who, role)): Three| async move {
            done(app.check_role(&ctx, &actor(who), &target(on), &role).await)
        },
    )
    .put(
        move |State(app): Shared, Auth(ctx): Auth, Path((on, who, role)): Three| async move {
            done(app.grant_role(&ctx, &actor(who), &target(on), &role).await)
        },
    )
    .delete(
        move |State(app): Shared, Auth(ctx): Auth, Path((on, who, role)): Three| async move {
            done(app.revoke_role(&ctx, &actor(who), &target(on), &role).await)
        },
    )
}

fn role_on_system(actor: MakeActor) -> MethodRouter<Arc<App>> {
    let system = GrantTarget::System;
    let (granted, revoked) = (system.clone(), system.clone());
    get(
        move |State(app): Shared, Auth(ctx): Auth, Path((who, role)): Two| async move {
            done(app.check_role(&ctx, &actor(who), &system, &role).await)
        },
    )
    .put(
        move |State(app): Shared, Auth(ctx): Auth, Path((who, role)): Two| async move {
            done(app.grant_role(&ctx, &actor(who), &granted, &role).await)
        },
    )
    .delete(
        move |State(app): Shared, Auth(ctx): Auth, Path((who, role)): Two| async move {
            done(app.revoke_role(&ctx, &actor(who), &revoked, &role).await)
        },
    )
}

fn done(outcome: Result<(), yakumo_types::Fault>) -> HttpResult<Response> {
    outcome?;
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn list(
    app: &App,
    ctx: &RequestContext,
    base: &BaseUrl,
    actor: &Actor,
    target: &GrantTarget,
) -> HttpResult<Response> {
    let found = whole(app.granted_roles(ctx, actor, target).await?);
    let query = QueryPairs::default();
    Ok(ok(&list_document("roles", found, base, &query, |row| {
        roles::document(row, base)
    })))
}
