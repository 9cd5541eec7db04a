//! Quotas: whoever makes a row counts the project's rows in the same
//! transaction, behind a lock, so that nothing is ever taken beyond the limit.

use std::collections::BTreeMap;

use yakumo_contracts::network::{ListQuotasReply, Quota, Quotas, SetQuotasRequest};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::{Fault, ProjectId, RequestContext, Role};

use super::{App, faults};
use crate::store;

/// Everything that is counted.
const RESOURCES: &[&str] = &[
    "network",
    "subnet",
    "port",
    "router",
    "floatingip",
    "security_group",
    "security_group_rule",
];

impl App {
    fn default_limit(&self, resource: &str) -> i64 {
        let quotas = &self.config.quotas;
        match resource {
            "network" => quotas.network,
            "subnet" => quotas.subnet,
            "port" => quotas.port,
            "router" => quotas.router,
            "floatingip" => quotas.floatingip,
            "security_group" => quotas.security_group,
            _ => quotas.security_group_rule,
        }
    }

    /// Makes room for `count` more things of a project, or refuses. Call it
    /// before the rows are inserted.
    pub(super) async fn spend(
        &self,
        txn: &DatabaseTransaction,
        project: &str,
        resource: &'static str,
        count: u64,
    ) -> Result<(), DbError> {
        if project.is_empty() || count == 0 {
            return Ok(());
        }
        let own = store::quotas::limit(txn, project, resource).await?;
        let Ok(limit) = u64::try_from(own.unwrap_or_else(|| self.default_limit(resource))) else {
            return Ok(());
        };
        store::quotas::lock(txn, project).await?;
        let used = store::quotas::used(txn, project, resource).await?;
        if used.saturating_add(count) > limit {
            return Err(faults::over_quota(resource).into());
        }
        Ok(())
    }

    /// A project's limits, what it uses, and the defaults.
    pub async fn quotas(&self, ctx: &RequestContext, project: &str) -> Result<Quotas, Fault> {
        let project = within(ctx, project)?;
        let db = self.db.read();
        let own: BTreeMap<String, i64> = store::quotas::of_project(db, &project)
            .await?
            .into_iter()
            .map(|quota| (quota.resource, quota.value))
            .collect();
        let mut quotas = Vec::new();
        for resource in RESOURCES {
            let default_limit = self.default_limit(resource);
            quotas.push(Quota {
                resource: (*resource).into(),
                limit: own.get(*resource).copied().unwrap_or(default_limit),
                used: store::quotas::used(db, &project, resource).await?,
                default_limit,
            });
        }
        Ok(Quotas {
            project_id: project,
            quotas,
        })
    }

    /// Sets limits of a project.
    pub async fn set_quotas(
        &self,
        ctx: &RequestContext,
        request: SetQuotasRequest,
    ) -> Result<Quotas, Fault> {
        ctx.require_admin()?;
        let project = within(ctx, &request.project_id)?;
        for quota in &request.quotas {
            if !RESOURCES.contains(&quota.resource.as_str()) {
                return Err(faults::invalid(format!(
                    "There is no quota for {:?}.",
                    quota.resource
                )));
            }
            if quota.limit < -1 || quota.limit > i64::from(i32::MAX) {
                return Err(faults::invalid("A limit is -1 or more."));
            }
        }
        let input = (project.clone(), request);
        self.change(ctx, input, |_app, txn, _ctx, (project, request)| {
            Box::pin(async move {
                if request.reset {
                    store::quotas::reset(txn, &project).await?;
                }
                for quota in request.quotas {
                    let row = store::quota::Model {
                        project_id: project.clone(),
                        resource: quota.resource,
                        value: quota.limit,
                    };
                    store::quotas::put(txn, row).await?;
                }
                Ok(())
            })
        })
        .await?;
        self.quotas(ctx, &project).await
    }

    /// The projects that have limits of their own.
    pub async fn list_quotas(&self, ctx: &RequestContext) -> Result<ListQuotasReply, Fault> {
        ctx.require_admin()?;
        let mut projects: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
        for quota in store::quotas::all(self.db.read()).await? {
            projects
                .entry(quota.project_id)
                .or_default()
                .insert(quota.resource, quota.value);
        }
        let projects = projects
            .into_iter()
            .map(|(project_id, own)| Quotas {
                project_id,
                quotas: RESOURCES
                    .iter()
                    .map(|resource| {
                        let default_limit = self.default_limit(resource);
                        Quota {
                            resource: (*resource).into(),
                            limit: own.get(*resource).copied().unwrap_or(default_limit),
                            used: 0,
                            default_limit,
                        }
                    })
                    .collect(),
            })
            .collect();
        Ok(ListQuotasReply { projects })
    }
}

/// The project whose quotas the caller may see.
fn within(ctx: &RequestContext, project: &str) -> Result<String, Fault> {
    if project.is_empty() {
        return Ok(ctx.require_reader()?.to_string());
    }
    let wanted: ProjectId = project
        .parse()
        .map_err(|_| faults::invalid("The project id is not valid."))?;
    ctx.require(Role::Reader)?;
    if ctx.may_see(wanted) {
        return Ok(wanted.to_string());
    }
    Err(Fault::forbidden(
        "The quotas of another project are not yours to see.",
    ))
}
