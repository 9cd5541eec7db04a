//! The server side of `identity.proto`.

use std::sync::Arc;

use async_trait::async_trait;
use yakumo_auth::VerificationSource;
use yakumo_contracts::identity::{
    IdentityServer, Project, ProjectsReply, ProjectsRequest, VerificationState,
    VerificationStateRequest,
};
use yakumo_rpc::Incoming;
use yakumo_types::Fault;

use crate::app::{App, StoreSource};

/// Answers verifiers and other services.
pub(crate) struct Rpc {
    pub(crate) app: Arc<App>,
    pub(crate) source: StoreSource,
}

#[async_trait]
impl IdentityServer for Rpc {
    async fn get_verification_state(
        &self,
        _call: &Incoming,
        request: VerificationStateRequest,
    ) -> Result<VerificationState, Fault> {
        // Public keys and revoked ids; hosts cannot ask, as no method of this
        // contract is open to them.
        self.source.verification_state(request).await
    }

    async fn get_projects(
        &self,
        call: &Incoming,
        request: ProjectsRequest,
    ) -> Result<ProjectsReply, Fault> {
        call.context.require_admin()?;
        if request.ids.len() > 1_000 {
            return Err(Fault::invalid(
                "At most 1,000 projects can be asked for at a time.",
            ));
        }
        let projects = self
            .app
            .projects_by_id(&request.ids)
            .await?
            .into_iter()
            .map(|row| Project {
                id: row.id,
                name: row.name,
                domain_id: row.domain_id,
                enabled: row.enabled,
            })
            .collect();
        Ok(ProjectsReply { projects })
    }
}
