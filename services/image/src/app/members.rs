//! Images shared with single projects. The owner invites, the invited project
//! says whether it wants the image in its listings.

use yakumo_db::DbError;
use yakumo_db::idempotency::gone;
use yakumo_types::{Fault, IdempotencyKey, ImageId, ProjectId, RequestContext, Role};

use super::Images;
use super::images::not_found;
use super::model::{Image, Member, MemberStatus, Visibility};
use crate::store::members as rows;

impl Images {
    /// The members: all of them for the owner, itself for a member.
    pub async fn list_members(
        &self,
        ctx: &RequestContext,
        id: ImageId,
    ) -> Result<Vec<Member>, Fault> {
        let image = self.shared_image(ctx, id).await?;
        let only = match ctx.may_see(image.owner) {
            true => None,
            false => Some(ctx.require_project()?),
        };
        Ok(rows::list(&self.db, id, only).await?)
    }

    /// One member, for the owner and for itself.
    pub async fn show_member(
        &self,
        ctx: &RequestContext,
        id: ImageId,
        project: ProjectId,
    ) -> Result<Member, Fault> {
        self.list_members(ctx, id)
            .await?
            .into_iter()
            .find(|member| member.project_id == project)
            .ok_or_else(|| no_member(id, project))
    }

    /// Invites a project.
    pub async fn add_member(
        &self,
        ctx: &RequestContext,
        id: ImageId,
        project: ProjectId,
        key: Option<&IdempotencyKey>,
    ) -> Result<Member, Fault> {
        let image = self.find_own(ctx, id).await?.image;
        let once = self.once(ctx, "create_member", key);
        if once.made(&self.db).await?.is_some() {
            return self.show_member(ctx, id, project).await.map_err(gone);
        }
        if image.visibility != Visibility::Shared {
            return Err(Fault::forbidden(
                "Only images with the visibility shared have members.",
            ));
        }
        let now = self.process.env.now();
        let member = Member {
            image_id: id,
            project_id: project,
            status: MemberStatus::Pending,
            created_at: now,
            updated_at: now,
        };
        match rows::insert(&self.db, &member, &once).await {
            Ok(()) => Ok(member),
            Err(DbError::Conflict { .. }) => Err(Fault::conflict(format!(
                "Project {project} is a member of image {id} already."
            ))),
            Err(DbError::NotFound | DbError::ForeignKey { .. }) => Err(not_found(id)),
            Err(error) => Err(error.into()),
        }
    }

    /// The invited project's word.
    pub async fn answer_member(
        &self,
        ctx: &RequestContext,
        id: ImageId,
        project: ProjectId,
        status: MemberStatus,
    ) -> Result<Member, Fault> {
        self.shared_image(ctx, id).await?;
        ctx.require(Role::Member)?;
        if !ctx.may_see(project) {
            // The owner must not speak for its guests.
            return Err(Fault::forbidden(
                "Only the member itself may change its status.",
            ));
        }
        let now = self.process.env.now();
        match rows::set_status(&self.db, id, project, status, now).await {
            Ok(()) => self.show_member(ctx, id, project).await,
            Err(DbError::NotFound) => Err(no_member(id, project)),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the invitation back.
    pub async fn remove_member(
        &self,
        ctx: &RequestContext,
        id: ImageId,
        project: ProjectId,
    ) -> Result<(), Fault> {
        self.find_own(ctx, id).await?;
        match rows::delete(&self.db, id, project).await {
            Err(DbError::NotFound) => Err(no_member(id, project)),
            other => Ok(other?),
        }
    }

    async fn shared_image(&self, ctx: &RequestContext, id: ImageId) -> Result<Image, Fault> {
        let image = self.show(ctx, id).await?;
        if image.visibility != Visibility::Shared {
            return Err(Fault::forbidden(
                "Only images with the visibility shared have members.",
            ));
        }
        Ok(image)
    }
}

fn no_member(id: ImageId, project: ProjectId) -> Fault {
    Fault::not_found(format!(
        "Project {} is no member of image {id}.",
        project.simple()
    ))
}
