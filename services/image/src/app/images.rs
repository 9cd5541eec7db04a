//! Images without their data: create, show, list, update, delete, tags, and
//! the administrator's closing and opening.

use serde_json::{Map, Value};
use yakumo_db::DbError;
use yakumo_db::idempotency::gone;
use yakumo_types::{Fault, IdempotencyKey, ImageId, RequestContext, Role};

use super::document::{Change, Rights, apply_body, apply_patch, wanted_id};
use super::model::{Image, Status, Visibility, check_bounds, check_tag};
use super::query::ListQuery;
use super::{Images, needs_project, viewer};
use crate::store::images::{self as rows, Revised};

/// How often a change is tried again that lost against another one.
const ATTEMPTS: usize = 8;

pub(super) fn not_found(id: ImageId) -> Fault {
    Fault::not_found(format!("No image found with ID {id}."))
}

impl Images {
    /// Makes an image without data for the caller's project.
    pub async fn create(
        &self,
        ctx: &RequestContext,
        body: &Map<String, Value>,
        key: Option<&IdempotencyKey>,
    ) -> Result<Image, Fault> {
        ctx.require(Role::Member)?;
        let once = self.once(ctx, "create_image", key);
        if let Some(id) = once.made_one(&self.db).await? {
            let id = id.parse().map_err(DbError::other)?;
            return self.show(ctx, id).await.map_err(gone);
        }
        let named_owner = || body.get("owner").and_then(Value::as_str)?.parse().ok();
        let owner = match ctx.project_id {
            Some(project) => project,
            None if ctx.is_admin() => named_owner().ok_or_else(needs_project)?,
            None => return Err(needs_project()),
        };
        let wanted = wanted_id(body)?;
        let now = self.process.env.now();
        let mut image = Image {
            id: wanted.unwrap_or_else(|| self.process.env.id()),
            owner,
            name: None,
            status: Status::Queued,
            visibility: Visibility::Shared,
            protected: false,
            hidden: false,
            disk_format: None,
            container_format: None,
            min_disk: 0,
            min_ram: 0,
            stored: None,
            blob: None,
            properties: Default::default(),
            tags: Vec::new(),
            created_at: now,
            updated_at: now,
        };
        let rights = Rights {
            admin: ctx.is_admin(),
        };
        apply_body(&mut image, body, &rights)?;
        match rows::insert(&self.db, &image, self.config.quota_images, &once).await {
            Ok(()) => Ok(image),
            // An id that is taken may be somebody else's, and says no more than that.
            Err(DbError::Conflict { .. }) => Err(Fault::conflict(format!(
                "Image ID {} already exists.",
                image.id
            ))),
            Err(error) => Err(error.into()),
        }
    }

    /// An image that the caller may see.
    pub async fn show(&self, ctx: &RequestContext, id: ImageId) -> Result<Image, Fault> {
        Ok(self.find(ctx, id).await?.image)
    }

    /// Those of the images that the caller may see.
    pub async fn show_many(
        &self,
        ctx: &RequestContext,
        ids: &[ImageId],
    ) -> Result<Vec<Image>, Fault> {
        Ok(rows::find_many(&self.db, viewer(ctx)?, ids).await?)
    }

    /// One page of images.
    pub async fn list(&self, ctx: &RequestContext, query: &ListQuery) -> Result<Vec<Image>, Fault> {
        Ok(rows::list(&self.db, viewer(ctx)?, query).await?)
    }

    /// Applies a patch.
    pub async fn update(
        &self,
        ctx: &RequestContext,
        id: ImageId,
        changes: &[Change],
    ) -> Result<Image, Fault> {
        let rights = Rights {
            admin: ctx.is_admin(),
        };
        self.change(ctx, id, |image| apply_patch(image, changes, &rights))
            .await
    }

    /// Adds a tag; it is no error if it is there.
    pub async fn add_tag(&self, ctx: &RequestContext, id: ImageId, tag: &str) -> Result<(), Fault> {
        let tag = check_tag(tag)?;
        self.change(ctx, id, |image| {
            if !image.tags.iter().any(|other| other == tag) {
                image.tags.push(tag.to_owned());
            }
            check_bounds(image)
        })
        .await?;
        Ok(())
    }

    /// Takes a tag away.
    pub async fn remove_tag(
        &self,
        ctx: &RequestContext,
        id: ImageId,
        tag: &str,
    ) -> Result<(), Fault> {
        self.change(ctx, id, |image| {
            let before = image.tags.len();
            image.tags.retain(|other| other != tag);
            if image.tags.len() == before {
                return Err(Fault::not_found(format!("The image has no tag {tag:?}.")));
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Deletes an image; whoever reads its data reads on to the end.
    pub async fn delete(&self, ctx: &RequestContext, id: ImageId) -> Result<(), Fault> {
        for _ in 0..ATTEMPTS {
            let found = self.find_own(ctx, id).await?;
            if found.image.protected {
                return Err(Fault::forbidden(format!(
                    "Image {id} is protected and cannot be deleted."
                )));
            }
            match rows::delete(&self.db, id, found.revision).await {
                Ok(()) => {
                    self.sweep.nudge();
                    return Ok(());
                }
                Err(DbError::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(DbError::Stale.into())
    }

    /// Closes an active image for everybody but administrators, or opens it
    /// again. It is no error if it is so already.
    pub async fn set_active(
        &self,
        ctx: &RequestContext,
        id: ImageId,
        to: Status,
    ) -> Result<(), Fault> {
        let found = self.find(ctx, id).await?;
        ctx.require_admin()?;
        let from = match to {
            Status::Active => Status::Deactivated,
            _ => Status::Active,
        };
        if found.image.status == to {
            return Ok(());
        }
        if found.image.status != from {
            return Err(Fault::forbidden(format!(
                "Image {id} is {}; that is possible for an image that is {from} only.",
                found.image.status
            )));
        }
        let now = self.process.env.now();
        Ok(rows::set_status(&self.db, id, from, to, now).await?)
    }

    /// The image, if the caller may see it.
    pub(super) async fn find(&self, ctx: &RequestContext, id: ImageId) -> Result<Revised, Fault> {
        rows::find(&self.db, viewer(ctx)?, id)
            .await?
            .ok_or_else(|| not_found(id))
    }

    /// The image, if the caller may change it: 404 for one that it does not
    /// see, 403 for one that it only sees.
    pub(super) async fn find_own(
        &self,
        ctx: &RequestContext,
        id: ImageId,
    ) -> Result<Revised, Fault> {
        let found = self.find(ctx, id).await?;
        ctx.require(Role::Member)?;
        if !ctx.may_see(found.image.owner) {
            return Err(Fault::forbidden(format!(
                "You are not the owner of image {id}."
            )));
        }
        Ok(found)
    }

    /// Reads, changes and writes an image, again if another change came between.
    async fn change(
        &self,
        ctx: &RequestContext,
        id: ImageId,
        apply: impl Fn(&mut Image) -> Result<(), Fault>,
    ) -> Result<Image, Fault> {
        for _ in 0..ATTEMPTS {
            let found = self.find_own(ctx, id).await?;
            let mut image = found.image.clone();
            apply(&mut image)?;
            image.tags.sort();
            if image == found.image {
                return Ok(image);
            }
            image.updated_at = self.process.env.now();
            match rows::update(&self.db, &image, found.revision).await {
                Ok(()) => return Ok(image),
                Err(DbError::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(DbError::Stale.into())
    }
}
