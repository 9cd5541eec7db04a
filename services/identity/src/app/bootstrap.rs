//! What every cloud begins with. Safe to run again, by several replicas at
//! once: whatever is there already stays, except for the endpoints, which
//! follow the configuration.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use tracing::info;
use yakumo_db::{Db, DbError};
use yakumo_service::Secret;
use yakumo_types::{EndpointId, Env, ProjectId, RoleId, ServiceId, UserId};

use super::{FIXED_ROLES, Passwords, ids};
use crate::config::{BootstrapConfig, EndpointConfig};
use crate::store::assignments::SYSTEM;
use crate::store::catalog::EndpointFilter;
use crate::store::entity::{assignment, domain, endpoint, project, region, role, service, user};
use crate::store::{Page, assignments, catalog, domains, projects, roles, settings, users};

/// The name that the OpenStack service of a type goes by; clients show it.
fn usual_name(kind: &str) -> &str {
    match kind {
        "identity" => "keystone",
        "compute" => "nova",
        "image" => "glance",
        "network" => "neutron",
        "volume" | "volumev3" | "block-storage" => "cinder",
        "object-store" => "swift",
        other => other,
    }
}

/// Makes what is missing.
pub async fn bootstrap(
    db: &Db,
    env: &Env,
    passwords: &Passwords,
    config: &BootstrapConfig,
) -> anyhow::Result<()> {
    let log_id = env.rng.uuid().to_string();
    ignoring_conflicts(
        db.write(move |txn| {
            let log_id = log_id.clone();
            Box::pin(async move {
                if settings::get(txn, settings::LOG_ID).await?.is_none() {
                    settings::insert(txn, settings::LOG_ID, &log_id).await?;
                }
                Ok(())
            })
        })
        .await,
    )?;

    if domains::find(db.read(), ids::DEFAULT_DOMAIN)
        .await?
        .is_none()
    {
        let row = domain::Model {
            id: ids::DEFAULT_DOMAIN.into(),
            name: "Default".into(),
            description: "The default domain".into(),
            enabled: true,
        };
        let made = db
            .write(move |txn| {
                let row = row.clone();
                Box::pin(async move { domains::insert(txn, row).await })
            })
            .await;
        ignoring_conflicts(made)?;
    }
    for name in FIXED_ROLES {
        if roles::find_by_name(db.read(), name).await?.is_none() {
            let row = role::Model {
                id: env.id::<RoleId>().to_string(),
                name: name.into(),
                description: String::new(),
            };
            let made = db
                .write(move |txn| {
                    let row = row.clone();
                    Box::pin(async move { roles::insert(txn, row).await })
                })
                .await;
            ignoring_conflicts(made)?;
        }
    }
    administrator(db, env, passwords, config).await?;
    endpoints(db, env, config).await
}

fn ignoring_conflicts(outcome: Result<(), DbError>) -> Result<(), DbError> {
    match outcome {
        // Another replica was quicker.
        Err(DbError::Conflict { .. }) => Ok(()),
        other => other,
    }
}

async fn administrator(
    db: &Db,
    env: &Env,
    passwords: &Passwords,
    config: &BootstrapConfig,
) -> anyhow::Result<()> {
    let found = users::find_by_name(db.read(), ids::DEFAULT_DOMAIN, &config.admin_user).await?;
    if found.is_some() {
        // Made by an earlier start; an operator who took roles away meant it.
        return Ok(());
    }
    let password = first_password(env, config)?;
    let hash = passwords.hash(password.reveal()).await?;
    let user_row = user::Model {
        id: env.id::<UserId>().to_string(),
        domain_id: ids::DEFAULT_DOMAIN.into(),
        name: config.admin_user.clone(),
        description: String::new(),
        email: String::new(),
        enabled: true,
        default_project_id: None,
        password_hash: Some(hash),
        password_created_at: env.now().as_micros(),
    };
    let project_row = project::Model {
        id: env.id::<ProjectId>().to_string(),
        domain_id: ids::DEFAULT_DOMAIN.into(),
        parent_id: None,
        name: config.admin_project.clone(),
        description: "The project of the first administrator".into(),
        enabled: true,
    };
    // One transaction: an administrator without rights would never be mended.
    let made = db
        .write(move |txn| {
            let (user, project) = (user_row.clone(), project_row.clone());
            Box::pin(async move {
                let found = projects::find_by_name(txn, &project.domain_id, &project.name).await?;
                let project_id = match found {
                    Some(project) => project.id,
                    None => {
                        let id = project.id.clone();
                        projects::insert(txn, project).await?;
                        id
                    }
                };
                let role = roles::find_by_name(txn, "admin")
                    .await?
                    .ok_or(DbError::NotFound)?;
                let user_id = user.id.clone();
                users::insert(txn, user).await?;
                let targets = [
                    ("project", project_id),
                    ("domain", ids::DEFAULT_DOMAIN.to_owned()),
                    ("system", SYSTEM.to_owned()),
                ];
                for (kind, target_id) in targets {
                    let row = assignment::Model {
                        actor_kind: "user".into(),
                        actor_id: user_id.clone(),
                        target_kind: kind.into(),
                        target_id,
                        role_id: role.id.clone(),
                    };
                    assignments::insert(txn, row).await?;
                }
                Ok(())
            })
        })
        .await;
    ignoring_conflicts(made)?;
    info!(user = config.admin_user, "made the first administrator");
    Ok(())
}

fn first_password(env: &Env, config: &BootstrapConfig) -> anyhow::Result<Secret> {
    if !config.admin_password.is_empty() {
        return Ok(config.admin_password.clone());
    }
    let path = &config.admin_password_file;
    if path.as_os_str().is_empty() {
        bail!(
            "the first administrator needs a password: set identity.bootstrap.admin_password, \
             or identity.bootstrap.admin_password_file to have one made"
        );
    }
    if path.exists() {
        // A start that got no further than this.
        return Secret::from_file(path).map_err(anyhow::Error::msg);
    }
    let mut bytes = [0; 16];
    env.rng.fill(&mut bytes);
    let password = hex::encode(bytes);
    write_secret(path, &password).with_context(|| format!("cannot write {}", path.display()))?;
    info!(file = %path.display(), "made a password for the first administrator");
    Ok(Secret::new(password))
}

fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

async fn endpoints(db: &Db, env: &Env, config: &BootstrapConfig) -> anyhow::Result<()> {
    for (kind, wanted) in &config.endpoints {
        if wanted.public.is_empty() {
            bail!("identity.bootstrap.endpoints.{kind} has no public URL");
        }
    }
    let (env, all, region) = (env.clone(), config.endpoints.clone(), config.region.clone());
    db.write(move |txn| {
        let (env, all, region) = (env.clone(), all.clone(), region.clone());
        Box::pin(async move {
            // Nothing in the tables keeps two replicas from making a service twice.
            settings::hold(txn, settings::LOG_ID).await?;
            for (kind, wanted) in &all {
                service_endpoints(txn, &env, kind, wanted, &region).await?;
            }
            Ok(())
        })
    })
    .await?;
    Ok(())
}

async fn service_endpoints(
    txn: &yakumo_db::DatabaseTransaction,
    env: &Env,
    kind: &str,
    wanted: &EndpointConfig,
    region: &str,
) -> Result<(), DbError> {
    if catalog::find_region(txn, region).await?.is_none() {
        let row = region::Model {
            id: region.to_owned(),
            description: String::new(),
            parent_region_id: None,
        };
        catalog::insert_region(txn, row).await?;
    }
    let all = Page::default();
    let services = catalog::list_services(txn, Some(kind), None, &all).await?;
    let service = match services.into_iter().next() {
        Some(service) => service,
        None => {
            let name = if wanted.name.is_empty() {
                usual_name(kind)
            } else {
                &wanted.name
            };
            let row = service::Model {
                id: env.id::<ServiceId>().to_string(),
                kind: kind.to_owned(),
                name: name.to_owned(),
                description: String::new(),
                enabled: true,
            };
            catalog::insert_service(txn, row.clone()).await?;
            row
        }
    };
    let or_public = |url: &String| {
        if url.is_empty() {
            wanted.public.clone()
        } else {
            url.clone()
        }
    };
    let urls = [
        ("public", wanted.public.clone()),
        ("internal", or_public(&wanted.internal)),
        ("admin", or_public(&wanted.admin)),
    ];
    for (interface, url) in urls {
        let filter = EndpointFilter {
            interface: Some(interface.to_owned()),
            service_id: Some(service.id.clone()),
            region_id: Some(region.to_owned()),
            enabled: None,
        };
        let found = catalog::list_endpoints(txn, &filter, &all).await?;
        match found.into_iter().next() {
            Some(row) if row.url == url => {}
            Some(row) => catalog::update_endpoint(txn, endpoint::Model { url, ..row }).await?,
            None => {
                let row = endpoint::Model {
                    id: env.id::<EndpointId>().to_string(),
                    service_id: service.id.clone(),
                    interface: interface.to_owned(),
                    region_id: Some(region.to_owned()),
                    url,
                    enabled: true,
                };
                catalog::insert_endpoint(txn, row).await?;
            }
        }
    }
    Ok(())
}
