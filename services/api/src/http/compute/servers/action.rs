//! `POST /servers/{server}/action`: the body names one action.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use yakumo_http::{HttpResult, Path, StrictJson, empty, ok};
use yakumo_types::server_state::{RebootKind, ServerState, VmState};
use yakumo_types::{Fault, RequestContext, ServerId};

use super::super::{Caller, integer};
use super::ServerPath;
use crate::app::App;
use crate::app::power::PowerRequest;

/// Actions of the API that this cloud does not offer yet.
const NOT_OFFERED: &[&str] = &[
    "addFixedIp",
    "addFloatingIp",
    "changePassword",
    "confirmResize",
    "createBackup",
    "createImage",
    "evacuate",
    "forceDelete",
    "migrate",
    "os-getSPICEConsole",
    "os-getSerialConsole",
    "os-getVNCConsole",
    "os-migrateLive",
    "rebuild",
    "removeFixedIp",
    "removeFloatingIp",
    "rescue",
    "resize",
    "restore",
    "resume",
    "revertResize",
    "shelve",
    "shelveOffload",
    "suspend",
    "trigger_crash_dump",
    "unrescue",
    "unshelve",
];

pub(super) async fn act(
    State(app): State<Arc<App>>,
    Caller(ctx): Caller,
    Path(path): Path<ServerPath>,
    StrictJson(body): StrictJson<Map<String, Value>>,
) -> HttpResult<Response> {
    let id = path.id()?;
    let mut entries = body.into_iter();
    let (Some((name, argument)), None) = (entries.next(), entries.next()) else {
        return Err(Fault::invalid("The body must name one action.").into());
    };
    Ok(perform(&app, &ctx, id, &name, &argument).await?)
}

async fn perform(
    app: &App,
    ctx: &RequestContext,
    id: ServerId,
    name: &str,
    argument: &Value,
) -> Result<Response, Fault> {
    let power = |request| app.server_power(ctx, id, request);
    let group = || {
        argument
            .get("name")
            .and_then(Value::as_str)
            .ok_or_else(|| Fault::invalid("name must be that of a security group."))
    };
    match name {
        "os-start" => power(PowerRequest::Start).await?,
        "os-stop" => power(PowerRequest::Stop).await?,
        "pause" => power(PowerRequest::Pause).await?,
        "unpause" => power(PowerRequest::Unpause).await?,
        "reboot" => {
            let kind = match argument.get("type").and_then(Value::as_str) {
                Some(kind) if kind.eq_ignore_ascii_case("soft") => RebootKind::Soft,
                Some(kind) if kind.eq_ignore_ascii_case("hard") => RebootKind::Hard,
                _ => return Err(Fault::invalid("The type of a reboot must be SOFT or HARD.")),
            };
            power(PowerRequest::Reboot(kind)).await?;
        }
        "lock" => app.server_lock(ctx, id, true).await?,
        "unlock" => app.server_lock(ctx, id, false).await?,
        "addSecurityGroup" => app.server_security_group(ctx, id, group()?, true).await?,
        "removeSecurityGroup" => app.server_security_group(ctx, id, group()?, false).await?,
        "os-resetState" => {
            let vm = match argument.get("state").and_then(Value::as_str) {
                Some("active") => VmState::Active,
                Some("error") => VmState::Error,
                _ => return Err(Fault::invalid("state must be active or error.")),
            };
            app.server_reset(ctx, id, ServerState::resting(vm)).await?;
        }
        "os-getConsoleOutput" => {
            let lines = match argument.get("length") {
                None | Some(Value::Null) => None,
                Some(value) => match integer("length", value)? {
                    -1 => None,
                    lines => Some(
                        u32::try_from(lines)
                            .map_err(|_| Fault::invalid("length must be -1 or more."))?,
                    ),
                },
            };
            let output = app.console_log(ctx, id, lines).await?;
            return Ok(ok(&json!({ "output": output })));
        }
        name if NOT_OFFERED.contains(&name) => {
            app.server_of(ctx, id).await?;
            return Err(Fault::not_implemented(format!(
                "The action {name} is not offered by this cloud."
            )));
        }
        other => {
            return Err(Fault::invalid(format!(
                "There is no such action: {other:.64}"
            )));
        }
    }
    Ok(empty(StatusCode::ACCEPTED))
}
