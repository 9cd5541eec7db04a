//! What a project may have, and what it has: counted, never kept.

use yakumo_contracts::volume::{Quota, SetQuotaRequest};
use yakumo_db::{DatabaseTransaction, DbError};
use yakumo_types::{Fault, ProjectId, RequestContext};

use super::App;
use crate::store::{self, quota};

struct Limits {
    volumes: i64,
    gigabytes: i64,
}

impl App {
    fn limits(&self, own: Option<&quota::Model>) -> Limits {
        Limits {
            volumes: own
                .and_then(|row| row.volumes)
                .unwrap_or(self.config.quota_volumes),
            gigabytes: own
                .and_then(|row| row.gigabytes)
                .unwrap_or(self.config.quota_gigabytes),
        }
    }

    /// Refuses a volume of `size` GiB that a project has no room for. Call it
    /// in the transaction that inserts the volume, after the quota's lock.
    pub(super) async fn check_quota(
        &self,
        txn: &DatabaseTransaction,
        project: &str,
        size: u64,
    ) -> Result<(), DbError> {
        let limits = self.limits(store::quotas::find(txn, project).await?.as_ref());
        let (volumes, gigabytes) = store::volumes::usage(txn, project).await?;
        let over = |limit: i64, wanted: u64| u64::try_from(limit).is_ok_and(|limit| wanted > limit);
        if over(limits.volumes, volumes + 1) {
            return Err(DbError::Fault(Fault::over_quota(format!(
                "VolumeLimitExceeded: Maximum number of volumes allowed ({}) exceeded for quota 'volumes'.",
                limits.volumes
            ))));
        }
        if over(limits.gigabytes, gigabytes.saturating_add(size)) {
            return Err(DbError::Fault(Fault::over_quota(format!(
                "VolumeSizeExceedsAvailableQuota: Requested volume exceeds allowed gigabytes quota. Requested {size}G, quota is {}G and {gigabytes}G has been consumed.",
                limits.gigabytes
            ))));
        }
        Ok(())
    }

    /// A project's limits and use; others than one's own for administrators.
    pub async fn quota(&self, ctx: &RequestContext, project: &str) -> Result<Quota, Fault> {
        let project = self.quota_project(ctx, project)?;
        let limits = self.limits(
            store::quotas::find(self.db.read(), &project)
                .await?
                .as_ref(),
        );
        let (volumes_used, gigabytes_used) =
            store::volumes::usage(self.db.read(), &project).await?;
        Ok(Quota {
            project_id: project,
            volumes: limits.volumes,
            gigabytes: limits.gigabytes,
            volumes_used,
            gigabytes_used,
            volumes_default: self.config.quota_volumes,
            gigabytes_default: self.config.quota_gigabytes,
        })
    }

    /// Sets or resets a project's own limits.
    pub async fn set_quota(
        &self,
        ctx: &RequestContext,
        request: SetQuotaRequest,
    ) -> Result<Quota, Fault> {
        ctx.require_admin()?;
        let project = self.quota_project(ctx, &request.project_id)?;
        for limit in [request.volumes, request.gigabytes].into_iter().flatten() {
            if !(-1..=1_000_000_000).contains(&limit) {
                return Err(Fault::invalid(
                    "A quota is -1, for no limit, up to 1000000000.",
                ));
            }
        }
        let id = project.clone();
        self.db
            .write(move |txn| {
                let (id, request) = (id.clone(), request.clone());
                Box::pin(async move {
                    if request.reset {
                        return store::quotas::delete(txn, &id).await;
                    }
                    let own = store::quotas::find(txn, &id).await?;
                    let row = quota::Model {
                        project_id: id,
                        volumes: request.volumes.or(own.as_ref().and_then(|row| row.volumes)),
                        gigabytes: request
                            .gigabytes
                            .or(own.as_ref().and_then(|row| row.gigabytes)),
                    };
                    store::quotas::put(txn, row).await
                })
            })
            .await?;
        self.quota(ctx, &project).await
    }

    fn quota_project(&self, ctx: &RequestContext, project: &str) -> Result<String, Fault> {
        let id: ProjectId = match project {
            "" => ctx.require_reader()?,
            text => text
                .parse()
                .map_err(|_| Fault::invalid(format!("{text:?} is not a project id.")))?,
        };
        if !ctx.may_see(id) {
            return Err(Fault::forbidden(
                "The quota of another project is for administrators.",
            ));
        }
        Ok(id.to_string())
    }
}
