//! Flavors: made by administrators, chosen by everybody.

use std::collections::BTreeMap;

use yakumo_db::DbError;
use yakumo_db::idempotency::gone;
use yakumo_types::{Fault, FlavorId, IdempotencyKey, ProjectId, RequestContext, Role, check_name};

use super::{App, texts};
use crate::store::flavors::{self as store, Flavor, FlavorPage, FlavorScope};

/// The largest number that the API takes.
const MAX: i64 = 0x7FFF_FFFF;

/// A flavor that an administrator wants.
#[derive(Debug, Clone)]
pub struct NewFlavor {
    pub name: String,
    /// `None` or `auto` for an id that is made here.
    pub id: Option<String>,
    pub memory_mib: i64,
    pub vcpus: i64,
    pub disk_gib: i64,
    pub ephemeral_gib: i64,
    pub swap_mib: i64,
    pub rxtx_factor: f64,
    pub is_public: bool,
}

impl App {
    fn flavor_scope(ctx: &RequestContext) -> Result<FlavorScope, Fault> {
        ctx.require(Role::Reader)?;
        if ctx.is_admin() {
            return Ok(FlavorScope::Admin { is_public: None });
        }
        Ok(FlavorScope::Project(ctx.require_project()?))
    }

    /// One page of the flavors that the caller may use. `is_public` is heard
    /// from administrators alone: `None` means all.
    pub async fn flavor_list(
        &self,
        ctx: &RequestContext,
        is_public: Option<bool>,
        page: &FlavorPage,
    ) -> Result<Vec<Flavor>, Fault> {
        let scope = match Self::flavor_scope(ctx)? {
            FlavorScope::Admin { .. } => FlavorScope::Admin { is_public },
            scope => scope,
        };
        Ok(store::flavor_list(self.db.read(), scope, page).await?)
    }

    /// One flavor that the caller may use.
    pub async fn flavor_show(&self, ctx: &RequestContext, id: &str) -> Result<Flavor, Fault> {
        let scope = Self::flavor_scope(ctx)?;
        store::flavor_fetch(self.db.read(), scope, id)
            .await?
            .ok_or_else(|| missing(id))
    }

    /// Adds a flavor.
    pub async fn flavor_create(
        &self,
        ctx: &RequestContext,
        new: NewFlavor,
        key: Option<&IdempotencyKey>,
    ) -> Result<Flavor, Fault> {
        ctx.require_admin()?;
        let once = self.once(ctx, "create_flavor", key);
        if let Some(id) = once.made_one(&self.db).await? {
            return self.flavor_show(ctx, &id).await.map_err(gone);
        }
        let name = check_name("The flavor's name", &new.name, 255)?.to_owned();
        let id = match new.id.as_deref() {
            None | Some("auto") => self.env.id::<FlavorId>().to_string(),
            Some(id) => check_flavor_id(id)?.to_owned(),
        };
        in_range("ram", new.memory_mib, 1)?;
        in_range("vcpus", new.vcpus, 1)?;
        in_range("disk", new.disk_gib, 0)?;
        in_range("OS-FLV-EXT-DATA:ephemeral", new.ephemeral_gib, 0)?;
        in_range("swap", new.swap_mib, 0)?;
        if new.ephemeral_gib != 0 || new.swap_mib != 0 {
            return Err(Fault::invalid(
                "Flavors with swap or ephemeral disks are not offered by this cloud.",
            ));
        }
        if !(new.rxtx_factor.is_finite() && new.rxtx_factor > 0.0) {
            return Err(Fault::invalid("rxtx_factor must be a number above 0."));
        }
        let row = Flavor {
            id,
            name,
            memory_mib: new.memory_mib,
            vcpus: new.vcpus,
            disk_gib: new.disk_gib,
            ephemeral_gib: new.ephemeral_gib,
            swap_mib: new.swap_mib,
            rxtx_factor: new.rxtx_factor,
            is_public: new.is_public,
            extra_specs: "{}".into(),
            created_at: self.env.now().as_micros(),
        };
        let insert = row.clone();
        self.db
            .write(move |txn| {
                let (row, once) = (insert.clone(), once.clone());
                Box::pin(async move {
                    once.keep(txn, std::slice::from_ref(&row.id)).await?;
                    store::flavor_insert(txn, row).await
                })
            })
            .await
            .map_err(|error| match error {
                error if error.is_conflict_on("flavor_name") => {
                    Fault::conflict(format!("Flavor with name {} already exists.", row.name))
                }
                DbError::Conflict { .. } => {
                    Fault::conflict(format!("Flavor with ID {} already exists.", row.id))
                }
                error => error.into(),
            })?;
        Ok(row)
    }

    /// Removes a flavor.
    pub async fn flavor_delete(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        ctx.require_admin()?;
        let wanted = id.to_owned();
        self.db
            .write(move |txn| {
                let id = wanted.clone();
                Box::pin(async move { store::flavor_delete(txn, &id).await })
            })
            .await
            .map_err(|error| not_found(error, id))
    }

    /// Adds to a flavor's extra specs and returns all of them.
    pub async fn flavor_extra_specs_set(
        &self,
        ctx: &RequestContext,
        id: &str,
        specs: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Fault> {
        ctx.require_admin()?;
        for (key, value) in &specs {
            check_spec(key, value)?;
        }
        self.flavor_extra_specs_change(id, move |all| {
            all.extend(specs.clone());
            if all.len() > 128 {
                return Err(Fault::invalid("A flavor may have 128 extra specs."));
            }
            Ok(())
        })
        .await
    }

    /// Takes one extra spec from a flavor.
    pub async fn flavor_extra_spec_delete(
        &self,
        ctx: &RequestContext,
        id: &str,
        key: &str,
    ) -> Result<(), Fault> {
        ctx.require_admin()?;
        let key = key.to_owned();
        self.flavor_extra_specs_change(id, move |all| match all.remove(&key) {
            Some(_) => Ok(()),
            None => Err(Fault::not_found(format!(
                "Flavor has no extra specs with key {key}."
            ))),
        })
        .await?;
        Ok(())
    }

    async fn flavor_extra_specs_change(
        &self,
        id: &str,
        change: impl Fn(&mut BTreeMap<String, String>) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Result<BTreeMap<String, String>, Fault> {
        let wanted = id.to_owned();
        let change = std::sync::Arc::new(change);
        self.db
            .write(move |txn| {
                let (id, change) = (wanted.clone(), change.clone());
                Box::pin(async move {
                    let row = store::flavor_fetch_in(txn, &id)
                        .await?
                        .ok_or(DbError::NotFound)?;
                    let mut all = texts(&row.extra_specs);
                    change(&mut all)?;
                    store::flavor_extra_specs(txn, &id, serde_json::to_string(&all)?).await?;
                    Ok(all)
                })
            })
            .await
            .map_err(|error| not_found(error, id))
    }

    /// The projects that were given a flavor that is not public.
    pub async fn flavor_access_list(
        &self,
        ctx: &RequestContext,
        id: &str,
    ) -> Result<Vec<String>, Fault> {
        let flavor = self.flavor_show(ctx, id).await?;
        if flavor.is_public {
            return Err(Fault::not_found(
                "Access list not available for public flavors.",
            ));
        }
        Ok(store::flavor_access_list(self.db.read(), id).await?)
    }

    /// Gives a flavor to a project, or takes it away.
    pub async fn flavor_access_change(
        &self,
        ctx: &RequestContext,
        id: &str,
        project: ProjectId,
        change: AccessChange,
    ) -> Result<Vec<String>, Fault> {
        ctx.require_admin()?;
        let flavor = self.flavor_show(ctx, id).await?;
        if flavor.is_public && change == AccessChange::Give {
            return Err(Fault::conflict(
                "Can not add access to a public flavor: everybody has it.",
            ));
        }
        let wanted = id.to_owned();
        self.db
            .write(move |txn| {
                let id = wanted.clone();
                Box::pin(async move {
                    match change {
                        AccessChange::Give => store::flavor_access_insert(txn, &id, project).await,
                        AccessChange::Take => store::flavor_access_delete(txn, &id, project).await,
                    }
                })
            })
            .await
            .map_err(|error| match error {
                DbError::Conflict { .. } => Fault::conflict(format!(
                    "Flavor access already exists for flavor {id} and project {project}."
                )),
                DbError::NotFound => Fault::not_found(format!(
                    "Flavor access not found for flavor {id} and project {project}."
                )),
                error => error.into(),
            })?;
        Ok(store::flavor_access_list(self.db.read(), id).await?)
    }
}

/// What to do with a project's access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessChange {
    /// The project may use the flavor.
    Give,
    /// It may not any more.
    Take,
}

fn in_range(what: &str, value: i64, least: i64) -> Result<(), Fault> {
    if (least..=MAX).contains(&value) {
        return Ok(());
    }
    Err(Fault::invalid(format!(
        "{what} must be a whole number from {least} to {MAX}."
    )))
}

fn check_flavor_id(id: &str) -> Result<&str, Fault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || " -_.".contains(c);
    if id.is_empty() || id.len() > 255 || id.trim() != id || !id.chars().all(plain) {
        return Err(Fault::invalid(
            "A flavor's id holds up to 255 letters, digits, spaces, '-', '_' and '.'.",
        ));
    }
    Ok(id)
}

fn check_spec(key: &str, value: &str) -> Result<(), Fault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || " -_.:".contains(c);
    if key.is_empty() || key.len() > 255 || !key.chars().all(plain) {
        return Err(Fault::invalid(
            "The key of an extra spec holds up to 255 letters, digits, spaces, '-', '_', '.' and ':'.",
        ));
    }
    yakumo_types::check_description("The value of an extra spec", value, 255)
}

fn missing(id: &str) -> Fault {
    let id: String = id.chars().take(255).collect();
    Fault::not_found(format!("Flavor {id} could not be found."))
}

fn not_found(error: DbError, id: &str) -> Fault {
    match error {
        DbError::NotFound => missing(id),
        error => error.into(),
    }
}
