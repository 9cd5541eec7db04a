//! Filters, order and pages, the same for every kind of row.

use sea_orm::sea_query::Value;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, ModelTrait, QueryFilter, Select};
use yakumo_contracts::network::ListRequest;
use yakumo_db::{DbError, Direction, keyset};
use yakumo_types::{Fault, ProjectId};

/// The most rows of one page.
pub const MAX_PAGE: u32 = 500;

/// How a column's values are written in a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As they are.
    Text,
    /// An id of a project, with or without hyphens.
    Project,
    /// `true` or `false`, `1` or `0`.
    Bool,
    /// A number.
    Number,
}

/// A field of the API, its column, and how its values are written.
pub type Field<C> = (&'static str, C, Kind);

fn value(kind: Kind, text: &str) -> Option<Value> {
    Some(match kind {
        Kind::Text => text.to_owned().into(),
        Kind::Project => text
            .parse::<ProjectId>()
            .map_or_else(|_| text.to_owned(), |id| id.to_string())
            .into(),
        Kind::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => true.into(),
            "false" | "0" | "no" => false.into(),
            _ => return None,
        },
        Kind::Number => text.parse::<i64>().ok()?.into(),
    })
}

/// One page of `select`: the rows, and whether more follow. `fields` are what
/// may be filtered and sorted by; filters of other names are passed over, since
/// the API does so, and other sort keys are refused. `id` is the unique column
/// that breaks ties; `missing` is what an unknown marker is answered with.
pub async fn page<E>(
    db: &impl ConnectionTrait,
    mut select: Select<E>,
    fields: &[Field<E::Column>],
    id: E::Column,
    request: &ListRequest,
    missing: fn(&str) -> Fault,
) -> Result<(Vec<E::Model>, bool), DbError>
where
    E: EntityTrait,
    E::Model: ModelTrait<Entity = E>,
{
    for filter in &request.filters {
        let Some((_, column, kind)) = fields.iter().find(|(name, ..)| *name == filter.key) else {
            continue;
        };
        let values: Vec<Value> = filter
            .values
            .iter()
            .filter_map(|text| value(*kind, text))
            .collect();
        if values.is_empty() && !filter.values.is_empty() {
            return Err(Fault::invalid(format!(
                "The filter {} does not take these values.",
                filter.key
            ))
            .with_type("InvalidInput")
            .into());
        }
        select = select.filter(column.is_in(values));
    }
    let mut keys = Vec::new();
    for sort in &request.sorts {
        let Some((_, column, _)) = fields.iter().find(|(name, ..)| *name == sort.key) else {
            return Err(
                Fault::invalid(format!("{} is not a valid sort key.", sort.key))
                    .with_type("BadRequest")
                    .into(),
            );
        };
        let direction = if sort.descending {
            Direction::Descending
        } else {
            Direction::Ascending
        };
        keys.push((*column, direction));
    }
    keys.push((id, Direction::Ascending));
    if request.page_reverse {
        for (_, direction) in &mut keys {
            *direction = direction.reversed();
        }
    }
    let marker = match request.marker.as_str() {
        "" => None,
        marker => {
            let row = select
                .clone()
                .filter(id.eq(marker))
                .one(db)
                .await?
                .ok_or_else(|| missing(marker))?;
            Some(
                keys.iter()
                    .map(|(column, _)| row.get(*column))
                    .collect::<Vec<Value>>(),
            )
        }
    };
    let limit = match request.limit {
        0 => MAX_PAGE,
        limit => limit.min(MAX_PAGE),
    };
    let wanted = u64::from(limit) + 1;
    let mut rows = keyset(select, &keys, marker.as_deref(), Some(wanted))
        .all(db)
        .await?;
    let more = rows.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    if request.page_reverse {
        rows.reverse();
    }
    Ok((rows, more))
}

/// The values of one filter, where it was given.
pub fn filter<'a>(request: &'a ListRequest, key: &str) -> Option<&'a [String]> {
    request
        .filters
        .iter()
        .find(|filter| filter.key == key)
        .map(|filter| filter.values.as_slice())
}
