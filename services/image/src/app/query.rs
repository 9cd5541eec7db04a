//! What a listing asks for: filters, order and place.

use yakumo_types::{Fault, ImageId, ProjectId, Timestamp};

use super::model::{BASE_ATTRIBUTES, MemberStatus, Status, Visibility};

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `eq:` or nothing.
    Equal,
    /// `neq:`
    NotEqual,
    /// `gt:`
    Greater,
    /// `gte:`
    GreaterOrEqual,
    /// `lt:`
    Less,
    /// `lte:`
    LessOrEqual,
}

/// What a listing is ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SortKey {
    Name,
    Status,
    ContainerFormat,
    DiskFormat,
    Size,
    Id,
    CreatedAt,
    UpdatedAt,
}

impl SortKey {
    fn parse(word: &str) -> Result<Self, Fault> {
        Ok(match word {
            "name" => Self::Name,
            "status" => Self::Status,
            "container_format" => Self::ContainerFormat,
            "disk_format" => Self::DiskFormat,
            "size" => Self::Size,
            "id" => Self::Id,
            "created_at" => Self::CreatedAt,
            "updated_at" => Self::UpdatedAt,
            other => {
                return Err(Fault::invalid(format!(
                    "Images cannot be sorted by {other:?}; use one of: name, status, \
                     container_format, disk_format, size, id, created_at, updated_at."
                )));
            }
        })
    }
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Direction {
    Ascending,
    Descending,
}

impl Direction {
    fn parse(word: &str) -> Result<Self, Fault> {
        match word {
            "asc" => Ok(Self::Ascending),
            "desc" => Ok(Self::Descending),
            other => Err(Fault::invalid(format!(
                "The sort direction {other:?} must be asc or desc."
            ))),
        }
    }
}

/// One page of images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Any of these ids; empty for all.
    pub ids: Vec<ImageId>,
    /// Any of these names; empty for all.
    pub names: Vec<String>,
    /// Any of these states; empty for all.
    pub statuses: Vec<Status>,
    /// Any of these disk formats; empty for all.
    pub disk_formats: Vec<String>,
    /// Any of these container formats; empty for all.
    pub container_formats: Vec<String>,
    /// Only this visibility; without it, all but community.
    pub visibility: Option<Visibility>,
    /// `visibility=all`: community images too.
    pub every_visibility: bool,
    /// Only of this project.
    pub owner: Option<ProjectId>,
    /// What the caller's project says to images shared with it; `None` is any.
    pub member_status: Option<MemberStatus>,
    /// `member_status=all`.
    pub every_member_status: bool,
    /// All of these tags.
    pub tags: Vec<String>,
    /// Only with this MD5.
    pub checksum: Option<String>,
    /// Only with this SHA-512.
    pub hash: Option<String>,
    /// Only protected or unprotected.
    pub protected: Option<bool>,
    /// Hidden images, or (by default) those that are not.
    pub hidden: bool,
    /// Bytes.
    pub size_min: Option<u64>,
    /// Bytes.
    pub size_max: Option<u64>,
    /// Only images that need exactly this.
    pub min_disk: Option<u64>,
    /// Only images that need exactly this.
    pub min_ram: Option<u64>,
    /// Comparisons with the time of creation.
    pub created_at: Vec<(Comparison, Timestamp)>,
    /// Comparisons with the time of the last change.
    pub updated_at: Vec<(Comparison, Timestamp)>,
    /// Custom properties that must have these values.
    pub properties: Vec<(String, String)>,
    /// In this order; the id is always last, so that the order is whole.
    pub sort: Vec<(SortKey, Direction)>,
    /// Behind this image.
    pub marker: Option<ImageId>,
    /// At most so many.
    pub limit: u64,
}

/// Filters by custom properties, and by tags, each of which costs the database
/// a look-up; comparisons with one time; and keys to sort by.
const MAX_FILTERS: usize = 16;
const MAX_CHOICES: usize = 100;

/// Adds what is not there yet: what comes again says nothing new. Refuses more
/// than `most`, by an error that calls them `what`.
fn add<T: PartialEq>(list: &mut Vec<T>, item: T, most: usize, what: &str) -> Result<(), Fault> {
    if list.contains(&item) {
        return Ok(());
    }
    if list.len() >= most {
        return Err(Fault::invalid(format!(
            "Images cannot be listed by more than {most} {what}."
        )));
    }
    list.push(item);
    Ok(())
}

/// Reads the pairs of a query string. `default_limit` is used without a
/// `limit`, and no page is larger than `max_limit`.
pub fn parse(
    pairs: &[(String, String)],
    default_limit: u64,
    max_limit: u64,
) -> Result<ListQuery, Fault> {
    let mut query = ListQuery {
        limit: default_limit.min(max_limit),
        ..ListQuery::default()
    };
    let nothing = || ImageId::from_uuid(uuid::Uuid::nil());
    let mut keys = Vec::new();
    let mut directions = Vec::new();
    let mut sort = Vec::new();
    for (name, value) in pairs {
        if value.chars().any(char::is_control) {
            return Err(Fault::invalid(format!(
                "The parameter {name} must not hold control characters."
            )));
        }
        match name.as_str() {
            "limit" => {
                let limit: u64 = number(name, value)?;
                query.limit = limit.min(max_limit);
            }
            "marker" => {
                query.marker = Some(
                    value
                        .parse()
                        .map_err(|_| Fault::invalid("The marker is not the id of an image."))?,
                );
            }
            "sort" => {
                for part in value.split(',') {
                    let (key, direction) = part.split_once(':').unwrap_or((part, "desc"));
                    sort.push((SortKey::parse(key)?, Direction::parse(direction)?));
                }
            }
            "sort_key" => keys.push(SortKey::parse(value)?),
            "sort_dir" => directions.push(Direction::parse(value)?),
            "id" => {
                for choice in choices(value)? {
                    // Something that is no id names no image; the listing is
                    // empty then, which an id that cannot exist achieves.
                    let id = choice.parse().unwrap_or_else(|_| nothing());
                    add(&mut query.ids, id, MAX_CHOICES, "ids")?;
                }
            }
            "name" => query.names = choices(value)?,
            "disk_format" => query.disk_formats = choices(value)?,
            "container_format" => query.container_formats = choices(value)?,
            "status" => {
                for choice in choices(value)? {
                    match Status::parse(&choice) {
                        Some(status) => add(&mut query.statuses, status, MAX_CHOICES, "states")?,
                        // States of the API that no image of ours is ever in.
                        None if [
                            "uploading",
                            "importing",
                            "killed",
                            "deleted",
                            "pending_delete",
                        ]
                        .contains(&choice.as_str()) =>
                        {
                            add(&mut query.ids, nothing(), MAX_CHOICES, "ids")?;
                        }
                        None => {
                            return Err(Fault::invalid(format!(
                                "There is no image status {choice:?}."
                            )));
                        }
                    }
                }
            }
            "visibility" if value == "all" => query.every_visibility = true,
            "visibility" => {
                query.visibility =
                    Some(Visibility::parse(value).ok_or_else(|| {
                        Fault::invalid(format!("There is no visibility {value:?}."))
                    })?);
            }
            "owner" => {
                query.owner = Some(
                    value
                        .parse()
                        .unwrap_or(ProjectId::from_uuid(uuid::Uuid::nil())),
                );
            }
            "member_status" if value == "all" => query.every_member_status = true,
            "member_status" => {
                query.member_status = Some(MemberStatus::parse(value).ok_or_else(|| {
                    Fault::invalid(format!("There is no member status {value:?}."))
                })?);
            }
            "tag" => add(&mut query.tags, value.clone(), MAX_FILTERS, "tags")?,
            "checksum" => query.checksum = Some(value.to_ascii_lowercase()),
            "os_hash_value" => query.hash = Some(value.to_ascii_lowercase()),
            "os_hash_algo" => {
                if value != "sha512" {
                    add(&mut query.ids, nothing(), MAX_CHOICES, "ids")?;
                }
            }
            "protected" => query.protected = Some(boolean(name, value)?),
            "os_hidden" => query.hidden = boolean(name, value)?,
            "size_min" => query.size_min = Some(number(name, value)?),
            "size_max" => query.size_max = Some(number(name, value)?),
            "min_disk" => query.min_disk = Some(number(name, value)?),
            "min_ram" => query.min_ram = Some(number(name, value)?),
            "created_at" => {
                let time = time(name, value)?;
                add(&mut query.created_at, time, MAX_FILTERS, "times")?;
            }
            "updated_at" => {
                let time = time(name, value)?;
                add(&mut query.updated_at, time, MAX_FILTERS, "times")?;
            }
            other if BASE_ATTRIBUTES.contains(&other) => {
                return Err(Fault::invalid(format!(
                    "Images cannot be filtered by {other}."
                )));
            }
            property => {
                let wanted = (property.to_owned(), value.clone());
                add(&mut query.properties, wanted, MAX_FILTERS, "properties")?;
            }
        }
        if sort.len() > MAX_FILTERS || keys.len() > MAX_FILTERS {
            return Err(Fault::invalid(format!(
                "Images cannot be sorted by more than {MAX_FILTERS} keys."
            )));
        }
    }
    if !sort.is_empty() && (!keys.is_empty() || !directions.is_empty()) {
        return Err(Fault::invalid(
            "Use either sort, or sort_key and sort_dir, and not both.",
        ));
    }
    if directions.len() > keys.len().max(1) {
        return Err(Fault::invalid("There are more sort_dir than sort_key."));
    }
    if keys.is_empty() {
        keys.push(SortKey::CreatedAt);
    }
    if sort.is_empty() {
        let last = directions.last().copied().unwrap_or(Direction::Descending);
        for (index, key) in keys.into_iter().enumerate() {
            sort.push((key, directions.get(index).copied().unwrap_or(last)));
        }
    }
    // A key that comes again cannot change the order.
    for (key, direction) in sort {
        if !query.sort.iter().any(|(other, _)| *other == key) {
            query.sort.push((key, direction));
        }
    }
    let direction = query
        .sort
        .last()
        .map_or(Direction::Descending, |(_, direction)| *direction);
    for key in [SortKey::CreatedAt, SortKey::Id] {
        if !query.sort.iter().any(|(other, _)| *other == key) {
            query.sort.push((key, direction));
        }
    }
    Ok(query)
}

fn number(name: &str, value: &str) -> Result<u64, Fault> {
    value
        .parse()
        .ok()
        .filter(|number| i64::try_from(*number).is_ok())
        .ok_or_else(|| Fault::invalid(format!("The parameter {name} must be a whole number.")))
}

fn boolean(name: &str, value: &str) -> Result<bool, Fault> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Fault::invalid(format!(
            "The parameter {name} must be true or false."
        ))),
    }
}

fn time(name: &str, value: &str) -> Result<(Comparison, Timestamp), Fault> {
    let operators = [
        ("eq:", Comparison::Equal),
        ("neq:", Comparison::NotEqual),
        ("gte:", Comparison::GreaterOrEqual),
        ("gt:", Comparison::Greater),
        ("lte:", Comparison::LessOrEqual),
        ("lt:", Comparison::Less),
    ];
    let (comparison, text) = operators
        .iter()
        .find_map(|(word, comparison)| value.strip_prefix(word).map(|text| (*comparison, text)))
        .unwrap_or((Comparison::Equal, value));
    let time = Timestamp::parse(text)
        .ok_or_else(|| Fault::invalid(format!("The parameter {name} must be a time.")))?;
    Ok((comparison, time))
}

/// One value, or several behind `in:`, where commas inside of quotes count as
/// text.
fn choices(value: &str) -> Result<Vec<String>, Fault> {
    let Some(list) = value.strip_prefix("in:") else {
        return Ok(vec![value.to_owned()]);
    };
    let mut found = Vec::new();
    let mut current = String::new();
    let mut quoted = false;
    for char in list.chars() {
        match char {
            '"' => quoted = !quoted,
            ',' if !quoted => found.push(std::mem::take(&mut current)),
            other => current.push(other),
        }
    }
    if quoted {
        return Err(Fault::invalid("A quote in the filter is not closed."));
    }
    found.push(current);
    if found.len() > MAX_CHOICES {
        return Err(Fault::invalid(format!(
            "A filter must not have more than {MAX_CHOICES} choices."
        )));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &[(&str, &str)]) -> Result<ListQuery, Fault> {
        let pairs: Vec<(String, String)> = text
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        parse(&pairs, 25, 1000)
    }

    #[test]
    fn the_newest_come_first() {
        let query = query(&[]).unwrap();
        assert_eq!(
            query.sort,
            [
                (SortKey::CreatedAt, Direction::Descending),
                (SortKey::Id, Direction::Descending)
            ]
        );
        assert_eq!(query.limit, 25);
    }

    #[test]
    fn both_ways_of_sorting_are_understood_and_not_mixed() {
        let one = query(&[("sort", "name:asc,size")]).unwrap();
        let other = query(&[
            ("sort_key", "name"),
            ("sort_key", "size"),
            ("sort_dir", "asc"),
            ("sort_dir", "desc"),
        ])
        .unwrap();
        assert_eq!(one.sort, other.sort);
        assert!(query(&[("sort", "name"), ("sort_key", "name")]).is_err());
        assert!(query(&[("sort_key", "checksum")]).is_err());
        assert!(query(&[("sort_key", "name"), ("sort_dir", "up")]).is_err());
        assert!(query(&[("sort_dir", "asc"), ("sort_dir", "asc")]).is_err());
    }

    #[test]
    fn what_comes_again_counts_once_and_there_are_bounds() {
        let sorted = query(&[("sort", "name:asc,size,name:desc")]).unwrap();
        assert_eq!(
            sorted.sort.first(),
            Some(&(SortKey::Name, Direction::Ascending))
        );
        // Name, size, and the two that make the order whole.
        assert_eq!(sorted.sort.len(), 4);
        for name in ["sort", "sort_key"] {
            assert!(query(&[(name, "name"); 16]).is_ok(), "{name}");
            assert!(query(&[(name, "name"); 17]).is_err(), "{name}");
        }
        assert!(query(&[("sort", ["id"; 17].join(",").as_str())]).is_err());

        let again = query(&[("tag", "a"); 2_000]).unwrap();
        assert_eq!(again.tags, ["a"]);
        let again = query(&[("created_at", "gt:2026-11-21T00:00:00Z"); 2_000]).unwrap();
        assert_eq!(again.created_at.len(), 1);
        assert_eq!(query(&[("id", "x"); 2_000]).unwrap().ids.len(), 1);
        assert_eq!(query(&[("os", "a"); 2_000]).unwrap().properties.len(), 1);
        let many = |name: &str, value: &dyn Fn(u32) -> String, count: u32| {
            let pairs: Vec<(String, String)> = (0..count)
                .map(|number| (name.to_owned(), value(number)))
                .collect();
            parse(&pairs, 25, 1000)
        };
        let time = |number: u32| format!("2026-11-21T00:00:{number:02}Z");
        let word = |number: u32| format!("w{number}");
        let id = |number: u32| uuid::Uuid::from_u128(number.into()).to_string();
        for (name, value, most) in [
            ("tag", &word as &dyn Fn(u32) -> String, 16),
            ("created_at", &time, 16),
            ("updated_at", &time, 16),
            ("property", &word, 16),
            ("id", &id, 100),
        ] {
            assert!(many(name, value, most).is_ok(), "{name}");
            assert!(many(name, value, most + 1).is_err(), "{name}");
        }
    }

    #[test]
    fn choices_may_hold_quoted_commas() {
        let query = query(&[("name", "in:\"a,b\",c")]).unwrap();
        assert_eq!(query.names, ["a,b", "c"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for (name, value) in [
            ("limit", "-1"),
            ("limit", "many"),
            ("marker", "x"),
            ("status", "lost"),
            ("visibility", "secret"),
            ("member_status", "maybe"),
            ("protected", "perhaps"),
            ("size_min", "99999999999999999999"),
            ("created_at", "gt:yesterday"),
            ("name", "in:\"a"),
            ("name", "a\u{0}"),
            ("locations", "x"),
        ] {
            assert!(query(&[(name, value)]).is_err(), "{name}={value}");
        }
        assert_eq!(query(&[("limit", "5000")]).unwrap().limit, 1000);
    }
}
