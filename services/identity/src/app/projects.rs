//! Projects.

use yakumo_auth::RevocationKind;
use yakumo_db::DbError;
use yakumo_db::idempotency::gone;
use yakumo_types::{Fault, IdempotencyKey, ProjectId, RequestContext};

use super::{App, Listing, description, ids, listing, lookahead, missing, name, taken};
use crate::store::entity::project;
use crate::store::{Page, assignments, credentials, domains, projects, revocations};

/// How deep projects may be nested.
const MAX_DEPTH: usize = 5;

/// A new project.
#[derive(Debug, Clone, Default)]
pub struct NewProject {
    /// Unique within the domain.
    pub name: String,
    /// The caller's domain, or that of the project above, if nothing.
    pub domain_id: Option<String>,
    /// The project or domain above.
    pub parent_id: Option<String>,
    /// May be empty.
    pub description: String,
    /// Whether there are tokens for it.
    pub enabled: bool,
}

/// What to change about a project.
#[derive(Debug, Clone, Default)]
pub struct ProjectChange {
    /// Unique within the domain.
    pub name: Option<String>,
    /// May be empty.
    pub description: Option<String>,
    /// Disabling takes back all tokens for it.
    pub enabled: Option<bool>,
    /// Must be what it is, if given.
    pub domain_id: Option<String>,
    /// Must be what it is, if given.
    pub parent_id: Option<String>,
}

impl App {
    pub(crate) async fn find_project(&self, id: &str) -> Result<project::Model, Fault> {
        let found = match ids::stored(id) {
            Some(stored) => projects::find(self.db.read(), &stored).await?,
            None => None,
        };
        found.ok_or_else(|| missing("project", id))
    }

    /// A new project.
    pub async fn create_project(
        &self,
        ctx: &RequestContext,
        new: NewProject,
        key: Option<&IdempotencyKey>,
    ) -> Result<project::Model, Fault> {
        ctx.require_admin()?;
        let once = self.once(ctx, "create_project", key);
        if let Some(id) = once.made_one(&self.db).await? {
            return self.find_project(&id).await.map_err(gone);
        }
        let mut domain_id = new.domain_id.clone();
        let mut parent_id = None;
        if let Some(text) = &new.parent_id {
            let id = ids::stored(text).ok_or_else(|| missing("project", text))?;
            // A domain as parent only says where the project lives.
            if domains::find(self.db.read(), &id).await?.is_some() {
                domain_id.get_or_insert_with(|| id.clone());
            } else {
                let parent = self.find_project(&id).await?;
                self.check_depth(&parent).await?;
                domain_id.get_or_insert_with(|| parent.domain_id.clone());
                parent_id = Some(parent);
            }
        }
        let domain_id = self.home_domain(ctx, domain_id.as_deref()).await?;
        if let Some(parent) = &parent_id
            && parent.domain_id != domain_id
        {
            return Err(Fault::invalid(
                "A project must live in the domain of the project above it.",
            ));
        }
        let row = project::Model {
            id: self.env.id::<ProjectId>().to_string(),
            domain_id,
            parent_id: parent_id.map(|parent| parent.id),
            name: name(&new.name, 64)?,
            description: description(&new.description)?,
            enabled: new.enabled,
        };
        let new = row.clone();
        self.db
            .write(move |txn| {
                let (row, once) = (new.clone(), once.clone());
                Box::pin(async move {
                    once.keep(txn, std::slice::from_ref(&row.id)).await?;
                    projects::insert(txn, row).await
                })
            })
            .await
            .map_err(|error| taken(error, "project", &row.name))?;
        Ok(row)
    }

    async fn check_depth(&self, parent: &project::Model) -> Result<(), Fault> {
        let mut above = parent.parent_id.clone();
        for _ in 0..MAX_DEPTH.saturating_sub(2) {
            let Some(id) = above else { return Ok(()) };
            above = self.find_project(&id).await?.parent_id;
        }
        if above.is_none() {
            return Ok(());
        }
        Err(Fault::forbidden(format!(
            "Projects can be nested {MAX_DEPTH} deep at the most."
        )))
    }

    /// A project; for those who are in it and those who may look.
    pub async fn show_project(
        &self,
        ctx: &RequestContext,
        id: &str,
    ) -> Result<project::Model, Fault> {
        let own = ctx.project_id.map(|project| project.to_string());
        if own.is_some() && ids::stored(id) == own {
            return self.find_project(id).await;
        }
        Self::seen(ctx, self.find_project(id).await, |project| {
            &project.domain_id
        })
    }

    /// Projects. Readers of a domain see that domain's.
    pub async fn list_projects(
        &self,
        ctx: &RequestContext,
        mut filter: projects::Filter,
        page: &Page,
    ) -> Result<Listing<project::Model>, Fault> {
        filter.domain_id = self.visible_domain(ctx, filter.domain_id)?;
        if let Some(parent) = filter.parent_id.take() {
            let id = ids::stored(&parent).unwrap_or_default();
            if domains::find(self.db.read(), &id).await?.is_some() {
                if filter
                    .domain_id
                    .as_ref()
                    .is_some_and(|domain| *domain != id)
                {
                    return Ok(listing(Vec::new(), page));
                }
                filter.domain_id = Some(id);
                filter.top = true;
            } else {
                filter.parent_id = Some(id);
            }
        }
        let rows = projects::list(self.db.read(), &filter, &lookahead(page)).await?;
        Ok(listing(rows, page))
    }

    /// Changes a project.
    pub async fn update_project(
        &self,
        ctx: &RequestContext,
        id: &str,
        change: ProjectChange,
    ) -> Result<project::Model, Fault> {
        ctx.require_admin()?;
        let old = self.find_project(id).await?;
        let mut row = old.clone();
        let stays = |wanted: &Option<String>, is: &str| {
            wanted.is_none() || wanted.as_deref().and_then(ids::stored).as_deref() == Some(is)
        };
        let parent = row.parent_id.as_deref().unwrap_or(&row.domain_id);
        if !stays(&change.domain_id, &row.domain_id) || !stays(&change.parent_id, parent) {
            return Err(Fault::forbidden(
                "A project cannot move to another domain or below another project.",
            ));
        }
        if let Some(text) = &change.name {
            row.name = name(text, 64)?;
        }
        if let Some(text) = &change.description {
            row.description = description(text)?;
        }
        let mut kinds = Vec::new();
        if let Some(enabled) = change.enabled {
            if row.enabled && !enabled {
                kinds.push(RevocationKind::Project(ids::typed(&row.id)));
            }
            row.enabled = enabled;
        }
        let revoke = !kinds.is_empty();
        let (name, end) = (row.name.clone(), self.revocation_end());
        let stored = self
            .db
            .write(move |txn| {
                let (old, row, kinds) = (old.clone(), row.clone(), kinds.clone());
                Box::pin(async move {
                    let stored = projects::update(txn, &old, row).await?;
                    revocations::append(txn, &kinds, end).await?;
                    Ok(stored)
                })
            })
            .await
            .map_err(|error| taken(error, "project", &name))?;
        if revoke {
            self.announce_revocations().await;
        }
        Ok(stored)
    }

    /// Removes a project that has none below it.
    pub async fn delete_project(&self, ctx: &RequestContext, id: &str) -> Result<(), Fault> {
        ctx.require_admin()?;
        let row = self.find_project(id).await?;
        let end = self.revocation_end();
        self.db
            .write(move |txn| {
                let id = row.id.clone();
                Box::pin(async move {
                    assignments::delete_on_target(txn, "project", &id).await?;
                    credentials::delete_of_project(txn, &id).await?;
                    projects::delete(txn, &id).await?;
                    let kinds = [RevocationKind::Project(ids::typed(&id))];
                    revocations::append(txn, &kinds, end).await
                })
            })
            .await
            .map_err(|error| match error {
                DbError::ForeignKey { .. } => {
                    Fault::forbidden("The project has projects below it; remove those first.")
                }
                error => error.into(),
            })?;
        self.announce_revocations().await;
        Ok(())
    }

    /// Which of some projects exist, for other services.
    pub async fn projects_by_id(&self, wanted: &[String]) -> Result<Vec<project::Model>, Fault> {
        let wanted: Vec<String> = wanted.iter().filter_map(|id| ids::stored(id)).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let filter = projects::Filter {
            ids: Some(wanted),
            ..projects::Filter::default()
        };
        Ok(projects::list(self.db.read(), &filter, &Page::default()).await?)
    }
}
