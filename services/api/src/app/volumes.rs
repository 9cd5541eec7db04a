//! Requests that lend a volume to a server or take it back. Each is one
//! transaction: the row of the attachment, the action and the workflow that
//! sees to it.

use std::time::Duration;

use yakumo_contracts::volume::{Volume, VolumeRequest};
use yakumo_db::DbError;
use yakumo_types::server_state::{TaskState, VmState};
use yakumo_types::{
    AttachmentId, Fault, FaultCode, IdempotencyKey, RequestContext, ServerId, VolumeId,
};

use super::App;
use super::power::{action_of, living, require_unlocked, scope};
use crate::store::actions;
use crate::store::servers::{Server, state_of};
use crate::store::volumes::{self, ServerVolume};
use crate::workflows::{attach_volume, detach_volume};

/// The first name is the root disk's.
const DEVICES: std::ops::RangeInclusive<u8> = b'b'..=b'z';

impl App {
    /// Accepts the attachment of an available volume of the caller's.
    pub async fn volume_attach(
        &self,
        ctx: &RequestContext,
        id: ServerId,
        volume: VolumeId,
        device: Option<&str>,
        key: Option<&IdempotencyKey>,
    ) -> Result<ServerVolume, Fault> {
        ctx.require_member()?;
        let wanted = device.map(check_device).transpose()?;
        let server = self.server_of(ctx, id).await?;
        let once = self.once(ctx, "attach_volume", key);
        if let Some(attachment) = once.made_one(&self.db).await? {
            let mut all = self.volumes_of(vec![server.id.clone()]).await?;
            return all
                .remove(&server.id)
                .into_iter()
                .flatten()
                .find(|row| row.attachment_id == attachment)
                .ok_or_else(IdempotencyKey::gone);
        }
        let found = self.own_volume(ctx, &server, volume).await?;
        if found.status != "available" {
            return Err(Fault::invalid(format!(
                "Invalid volume: volume '{volume}' status must be 'available'. Currently in '{}'.",
                found.status
            )));
        }
        let scope = scope(ctx)?;
        let bound = Duration::from_secs(self.config.power_bound_seconds);
        let now = self.env.now();
        let attachment: AttachmentId = self.env.id();
        let action_id = self.env.rng.uuid().to_string();
        let (ctx, engine) = (ctx.clone(), self.engine.clone());
        let row = self
            .db
            .write(move |txn| {
                let (ctx, engine) = (ctx.clone(), engine.clone());
                let (wanted, action_id) = (wanted.clone(), action_id.clone());
                let once = once.clone();
                Box::pin(async move {
                    once.keep(txn, &[attachment.to_string()]).await?;
                    let server = living(txn, scope, id).await?;
                    require_unlocked(&ctx, &server)?;
                    check_state(&server, "attach_volume")?;
                    let taken = volumes::server_volume_list_in(txn, id).await?;
                    let row = ServerVolume {
                        attachment_id: attachment.to_string(),
                        server_id: server.id.clone(),
                        volume_id: volume.to_string(),
                        device: free_device(&taken, wanted)?,
                        state: "attaching".into(),
                        connection: None,
                        created_at: now.as_micros(),
                    };
                    volumes::server_volume_insert(txn, row.clone())
                        .await
                        .map_err(|error| match error {
                            DbError::Conflict { .. } => DbError::Fault(Fault::invalid(format!(
                                "Invalid volume: volume '{volume}' is being attached already."
                            ))),
                            other => other,
                        })?;
                    let input = attach_volume::Input {
                        server_id: id,
                        volume_id: volume,
                        attachment_id: attachment,
                        device: row.device.clone(),
                        action_id: action_id.clone(),
                    };
                    let input = serde_json::to_value(&input)?;
                    engine
                        .submit(txn, attach_volume::KIND, &server.id, input, &ctx, bound)
                        .await?;
                    let mut action = action_of(&ctx, &server, "attach_volume", now.as_micros());
                    action.id = action_id;
                    actions::action_insert(txn, vec![action]).await?;
                    Ok(row)
                })
            })
            .await?;
        Ok(row)
    }

    /// Accepts the detachment of a volume that is attached.
    pub async fn volume_detach(
        &self,
        ctx: &RequestContext,
        id: ServerId,
        volume: VolumeId,
    ) -> Result<(), Fault> {
        ctx.require_member()?;
        let scope = scope(ctx)?;
        let bound = Duration::from_secs(self.config.power_bound_seconds);
        let now = self.env.now();
        let action_id = self.env.rng.uuid().to_string();
        let (ctx, engine) = (ctx.clone(), self.engine.clone());
        self.db
            .write(move |txn| {
                let (ctx, engine, action_id) = (ctx.clone(), engine.clone(), action_id.clone());
                Box::pin(async move {
                    let server = living(txn, scope, id).await?;
                    require_unlocked(&ctx, &server)?;
                    let taken = volumes::server_volume_list_in(txn, id).await?;
                    let row = taken
                        .into_iter()
                        .find(|row| row.volume_id.parse() == Ok(volume))
                        .ok_or_else(|| not_attached(id, volume))?;
                    check_state(&server, "detach_volume")?;
                    match row.state.as_str() {
                        "attached" => {}
                        "detaching" | "leaving" | "releasing" => return Ok(()),
                        state => {
                            return Err(DbError::Fault(Fault::conflict(format!(
                                "The volume {volume} is {state}; it cannot be detached now."
                            ))));
                        }
                    }
                    let attachment = row
                        .attachment_id
                        .parse::<AttachmentId>()
                        .map_err(DbError::other)?;
                    volumes::server_volume_change(txn, attachment, "detaching", None).await?;
                    let input = detach_volume::Input {
                        server_id: id,
                        attachment_id: attachment,
                        action_id: action_id.clone(),
                    };
                    let input = serde_json::to_value(&input)?;
                    engine
                        .submit(txn, detach_volume::KIND, &server.id, input, &ctx, bound)
                        .await?;
                    let mut action = action_of(&ctx, &server, "detach_volume", now.as_micros());
                    action.id = action_id;
                    actions::action_insert(txn, vec![action]).await
                })
            })
            .await?;
        Ok(())
    }

    /// The volume, if it belongs to the server's project: an administrator
    /// may see more volumes than can be attached.
    async fn own_volume(
        &self,
        ctx: &RequestContext,
        server: &Server,
        volume: VolumeId,
    ) -> Result<Volume, Fault> {
        let request = VolumeRequest {
            id: volume.to_string(),
        };
        let found = self
            .volumes
            .show_volume(ctx, request)
            .await
            .map_err(|fault| match fault.code {
                FaultCode::NotFound => no_volume(volume),
                _ => fault,
            })?;
        if found.project_id != server.project_id {
            return Err(no_volume(volume));
        }
        Ok(found)
    }
}

fn no_volume(volume: VolumeId) -> Fault {
    Fault::not_found(format!("Volume {volume} could not be found."))
}

/// The answer (404) where a server does not have a volume.
fn not_attached(server: ServerId, volume: VolumeId) -> Fault {
    Fault::not_found(format!(
        "Instance {server} is not attached to volume {volume}."
    ))
}

/// Volumes come and go while a server rests; not while it is built, deleted
/// or broken.
fn check_state(server: &Server, what: &str) -> Result<(), Fault> {
    let state = state_of(server);
    let fits = matches!(
        state.vm,
        VmState::Active | VmState::Stopped | VmState::Paused
    );
    let busy = state
        .task
        .filter(|task| *task == TaskState::Deleting || !fits);
    match busy {
        None if fits && server.host.is_some() => Ok(()),
        Some(task) => Err(Fault::conflict(format!(
            "Cannot '{what}' instance {} while it is in task_state {task}",
            server.id
        ))),
        None => Err(Fault::conflict(format!(
            "Cannot '{what}' instance {} while it is in vm_state {}",
            server.id, state.vm
        ))),
    }
}

fn check_device(device: &str) -> Result<String, Fault> {
    let name = device.strip_prefix("/dev/").unwrap_or(device);
    let letter = name
        .strip_prefix("vd")
        .or_else(|| name.strip_prefix("sd"))
        .or_else(|| name.strip_prefix("xvd"));
    match letter.map(str::as_bytes) {
        Some([letter]) if DEVICES.contains(letter) => Ok(device_name(*letter)),
        _ => Err(Fault::invalid(format!(
            "The supplied device path ({}) is invalid.",
            device.chars().take(64).collect::<String>()
        ))),
    }
}

fn device_name(letter: u8) -> String {
    format!("/dev/vd{}", char::from(letter))
}

fn free_device(taken: &[ServerVolume], wanted: Option<String>) -> Result<String, Fault> {
    let is_free = |name: &String| taken.iter().all(|row| row.device != *name);
    match wanted {
        Some(name) if is_free(&name) => Ok(name),
        Some(name) => Err(Fault::conflict(format!(
            "The supplied device path ({name}) is in use."
        ))),
        None => DEVICES
            .map(device_name)
            .find(is_free)
            .ok_or_else(|| Fault::forbidden("The server has as many volumes as it can have.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(device: &str) -> ServerVolume {
        ServerVolume {
            attachment_id: String::new(),
            server_id: String::new(),
            volume_id: String::new(),
            device: device.into(),
            state: "attached".into(),
            connection: None,
            created_at: 0,
        }
    }

    #[test]
    fn devices_are_given_out_in_order_and_once() {
        assert_eq!(free_device(&[], None).unwrap(), "/dev/vdb");
        assert_eq!(
            free_device(&[row("/dev/vdb"), row("/dev/vdd")], None).unwrap(),
            "/dev/vdc"
        );
        assert!(free_device(&[row("/dev/vdb")], Some("/dev/vdb".into())).is_err());
        assert_eq!(check_device("/dev/sdc").unwrap(), "/dev/vdc");
        for bad in ["/dev/vda", "vdbb", "../vdb", "", "/dev/"] {
            assert!(check_device(bad).is_err(), "{bad}");
        }
    }
}
