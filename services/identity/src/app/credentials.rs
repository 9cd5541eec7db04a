//! Stored credentials, EC2 access keys among them.
//!
//! An EC2 key is a credential of the type `ec2` whose id is the SHA-256 of the
//! access key, so that the same key can be used through both APIs.

use sha2::{Digest, Sha256};
use yakumo_auth::policy;
use yakumo_types::{Fault, FaultCode, RequestContext};

use super::{App, Listing, ids, listing, lookahead, missing};
use crate::store::entity::credential;
use crate::store::{Page, credentials};

/// The longest secret.
const MAX_SECRET: usize = 64 * 1024;

/// A new credential.
#[derive(Clone)]
pub struct NewCredential {
    /// The caller if nothing.
    pub user_id: Option<String>,
    /// What it is for.
    pub project_id: Option<String>,
    /// `ec2`, `cert`, `totp`, …
    pub kind: String,
    /// The credential itself.
    pub secret: String,
}

/// What to change about a credential.
#[derive(Clone, Default)]
pub struct CredentialChange {
    /// What it is for; the inner nothing takes it away.
    pub project_id: Option<Option<String>>,
    /// `cert`, `totp`, …
    pub kind: Option<String>,
    /// The credential itself.
    pub secret: Option<String>,
}

/// What a credential's user must have on its project, whoever makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing, if an administrator makes it.
    None,
    /// A role.
    Role,
}

/// An EC2 access key.
#[derive(Clone)]
pub struct Ec2Key {
    /// The public half.
    pub access: String,
    /// The secret half.
    pub secret: String,
    /// Whose.
    pub user_id: String,
    /// For which project.
    pub project_id: String,
}

fn ec2_id(access: &str) -> String {
    hex::encode(Sha256::digest(access.as_bytes()))
}

fn ec2_key(row: &credential::Model) -> Option<Ec2Key> {
    let blob: serde_json::Value = serde_json::from_str(&row.secret).ok()?;
    Some(Ec2Key {
        access: blob.get("access")?.as_str()?.to_owned(),
        secret: blob.get("secret")?.as_str()?.to_owned(),
        user_id: row.user_id.clone(),
        project_id: row.project_id.clone()?,
    })
}

impl App {
    fn random_hex(&self) -> String {
        let mut bytes = [0; 16];
        self.env.rng.fill(&mut bytes);
        hex::encode(bytes)
    }

    async fn insert_credential(&self, row: credential::Model) -> Result<(), Fault> {
        self.db
            .write(move |txn| {
                let row = row.clone();
                Box::pin(async move { credentials::insert(txn, row).await })
            })
            .await
            .map_err(|error| super::taken(error, "credential", "of this kind"))
    }

    /// A new EC2 access key; for the user itself and administrators. The user
    /// must have a role on the project.
    pub async fn create_ec2_key(
        &self,
        ctx: &RequestContext,
        user_id: &str,
        project_id: &str,
    ) -> Result<Ec2Key, Fault> {
        let user = self.own_user(ctx, user_id).await?;
        let project = self.project_of(ctx, &user, project_id, Need::Role).await?;
        let key = Ec2Key {
            access: self.random_hex(),
            secret: self.random_hex(),
            user_id: user,
            project_id: project,
        };
        let blob =
            serde_json::json!({"access": key.access, "secret": key.secret, "trust_id": null});
        self.insert_credential(credential::Model {
            id: ec2_id(&key.access),
            user_id: key.user_id.clone(),
            project_id: Some(key.project_id.clone()),
            kind: "ec2".into(),
            secret: blob.to_string(),
            created_at: self.now().as_micros(),
        })
        .await?;
        Ok(key)
    }

    /// The project that a credential of `user` is for. Those who are no
    /// administrators must have a role on it, and are told the same of one
    /// that is not there: a key must not tell which projects exist.
    async fn project_of(
        &self,
        ctx: &RequestContext,
        user: &str,
        project: &str,
        need: Need,
    ) -> Result<String, Fault> {
        let no_role = || Fault::forbidden("The user has no role on this project.");
        // What is no id is none of any project, and gives nothing away.
        ids::stored(project).ok_or_else(|| missing("project", project))?;
        let found = match self.find_project(project).await {
            Err(fault) if fault.code == FaultCode::NotFound && !ctx.is_admin() => {
                return Err(no_role());
            }
            other => other?,
        };
        let needed = need == Need::Role || !ctx.is_admin();
        if needed && self.roles_on(user, "project", &found.id).await?.is_empty() {
            return Err(no_role());
        }
        Ok(found.id)
    }

    async fn own_user(&self, ctx: &RequestContext, user_id: &str) -> Result<String, Fault> {
        let stored = ids::stored(user_id).ok_or_else(|| missing("user", user_id))?;
        policy::require_self_or_admin(ctx, ids::typed(&stored))?;
        Ok(self.find_user(&stored).await?.id)
    }

    /// The EC2 access keys of a user.
    pub async fn list_ec2_keys(
        &self,
        ctx: &RequestContext,
        user_id: &str,
    ) -> Result<Vec<Ec2Key>, Fault> {
        let user = self.own_user(ctx, user_id).await?;
        let rows =
            credentials::list(self.db.read(), Some(&user), Some("ec2"), &Page::default()).await?;
        Ok(rows.iter().filter_map(ec2_key).collect())
    }

    async fn ec2_row(&self, user: &str, access: &str) -> Result<credential::Model, Fault> {
        credentials::find(self.db.read(), &ec2_id(access))
            .await?
            .filter(|row| row.kind == "ec2" && row.user_id == user)
            .ok_or_else(|| missing("credential", access))
    }

    /// One EC2 access key of a user.
    pub async fn show_ec2_key(
        &self,
        ctx: &RequestContext,
        user_id: &str,
        access: &str,
    ) -> Result<Ec2Key, Fault> {
        let user = self.own_user(ctx, user_id).await?;
        let row = self.ec2_row(&user, access).await?;
        ec2_key(&row).ok_or_else(|| missing("credential", access))
    }

    /// Removes an EC2 access key of a user.
    pub async fn delete_ec2_key(
        &self,
        ctx: &RequestContext,
        user_id: &str,
        access: &str,
    ) -> Result<(), Fault> {
        let user = self.own_user(ctx, user_id).await?;
        let row = self.ec2_row(&user, access).await?;
        self.remove_credential(row.id).await
    }

    async fn remove_credential(&self, id: String) -> Result<(), Fault> {
        self.db
            .write(move |txn| {
                let id = id.clone();
                Box::pin(async move { credentials::delete(txn, &id).await })
            })
            .await?;
        Ok(())
    }

    /// A new credential; for oneself, or for anybody by administrators.
    pub async fn create_credential(
        &self,
        ctx: &RequestContext,
        new: NewCredential,
    ) -> Result<credential::Model, Fault> {
        let user = match &new.user_id {
            Some(id) => self.own_user(ctx, id).await?,
            None => ctx.user_id.to_string(),
        };
        let kind = yakumo_types::check_name("type", &new.kind, 255)?.to_owned();
        check_secret(&new.secret)?;
        let is_ec2 = kind == "ec2";
        if is_ec2 && new.project_id.is_none() {
            return Err(Fault::invalid(
                "A credential of the type ec2 needs project_id.",
            ));
        }
        let need = if is_ec2 { Need::Role } else { Need::None };
        let project_id = match &new.project_id {
            Some(id) => Some(self.project_of(ctx, &user, id, need).await?),
            None => None,
        };
        let id = if is_ec2 {
            ec2_id(&ec2_access(&new.secret)?)
        } else {
            self.env.rng.uuid().simple().to_string()
        };
        let row = credential::Model {
            id,
            user_id: user,
            project_id,
            kind,
            secret: new.secret,
            created_at: self.now().as_micros(),
        };
        self.insert_credential(row.clone()).await?;
        Ok(row)
    }

    /// A credential.
    pub async fn show_credential(
        &self,
        ctx: &RequestContext,
        id: &str,
    ) -> Result<credential::Model, Fault> {
        let row = credentials::find(self.db.read(), id)
            .await?
            .filter(|row| ctx.is_admin() || ctx.user_id == ids::typed(&row.user_id))
            .ok_or_else(|| missing("credential", id))?;
        Ok(row)
    }

    /// Credentials: one's own, or anybody's for administrators.
    pub async fn list_credentials(
        &self,
        ctx: &RequestContext,
        user_id: Option<&str>,
        kind: Option<&str>,
        page: &Page,
    ) -> Result<Listing<credential::Model>, Fault> {
        let own = ctx.user_id.to_string();
        let wanted = user_id.map(|id| ids::stored(id).unwrap_or_default());
        let user = match wanted {
            wanted if ctx.is_admin() => wanted,
            Some(wanted) if wanted != own => return Err(policy::refused()),
            _ => Some(own),
        };
        let rows =
            credentials::list(self.db.read(), user.as_deref(), kind, &lookahead(page)).await?;
        Ok(listing(rows, page))
    }

    /// Changes a credential. An EC2 key's type, project and access key stay.
    pub async fn update_credential(
        &self,
        ctx: &RequestContext,
        id: &str,
        change: CredentialChange,
    ) -> Result<credential::Model, Fault> {
        let mut row = self.show_credential(ctx, id).await?;
        let is_ec2 = row.kind == "ec2";
        if let Some(kind) = change.kind {
            if kind != row.kind && (is_ec2 || kind == "ec2") {
                return Err(Fault::invalid(
                    "The type ec2 can neither be given nor taken away.",
                ));
            }
            row.kind = yakumo_types::check_name("type", &kind, 255)?.to_owned();
        }
        if let Some(project) = change.project_id {
            let project = match project {
                Some(id) => Some(self.project_of(ctx, &row.user_id, &id, Need::None).await?),
                None => None,
            };
            if is_ec2 && project != row.project_id {
                return Err(Fault::invalid("An EC2 key cannot move to another project."));
            }
            row.project_id = project;
        }
        if let Some(secret) = change.secret {
            check_secret(&secret)?;
            if is_ec2 && ec2_id(&ec2_access(&secret)?) != row.id {
                return Err(Fault::invalid(
                    "The access key of an EC2 key cannot change.",
                ));
            }
            row.secret = secret;
        }
        let new = row.clone();
        self.db
            .write(move |txn| {
                let row = new.clone();
                Box::pin(async move { credentials::update(txn, row).await })
            })
            .await?;
        Ok(row)
    }

    /// Removes a credential.
    pub async fn delete_credential(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        let row = self.show_credential(ctx, id).await?;
        self.remove_credential(row.id).await
    }
}

fn check_secret(secret: &str) -> Result<(), Fault> {
    if secret.is_empty() || secret.len() > MAX_SECRET || secret.contains('\0') {
        return Err(Fault::invalid(format!(
            "Invalid input for blob: it must have 1 to {MAX_SECRET} bytes."
        )));
    }
    Ok(())
}

fn ec2_access(secret: &str) -> Result<String, Fault> {
    let wrong =
        || Fault::invalid("The blob of an EC2 key must be a JSON object with access and secret.");
    let blob: serde_json::Value = serde_json::from_str(secret).map_err(|_| wrong())?;
    let access = blob
        .get("access")
        .and_then(|value| value.as_str())
        .filter(|access| !access.is_empty());
    let has_secret = blob.get("secret").is_some_and(serde_json::Value::is_string);
    match access {
        Some(access) if has_secret => Ok(access.to_owned()),
        _ => Err(wrong()),
    }
}
