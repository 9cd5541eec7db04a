//! `If-Match`, `If-None-Match`, `If-Modified-Since`, `If-Unmodified-Since`, in
//! the order that HTTP gives them.

use yakumo_types::{Fault, Timestamp};

use crate::store::objects::Object;

/// The conditions of a request.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// ETags without quotes, or `*`.
    pub if_match: Vec<String>,
    /// ETags without quotes, or `*`.
    pub if_none_match: Vec<String>,
    /// A time.
    pub if_modified_since: Option<Timestamp>,
    /// A time.
    pub if_unmodified_since: Option<Timestamp>,
}

/// What the conditions of a GET come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Give the object.
    Give,
    /// The client has it already: 304.
    NotModified,
}

impl Conditions {
    /// Reads a list of ETags; quotes and the mark of weak ones are dropped.
    pub fn etags(header: &str) -> Vec<String> {
        header
            .split(',')
            .map(|tag| {
                let tag = tag.trim();
                let tag = tag.strip_prefix("W/").unwrap_or(tag);
                tag.trim_matches('"').to_ascii_lowercase()
            })
            .filter(|tag| !tag.is_empty())
            .collect()
    }

    /// For GET and HEAD; 412 as a fault.
    pub fn for_read(&self, object: &Object) -> Result<Verdict, Fault> {
        if !self.if_match.is_empty() {
            if !holds(&self.if_match, object) {
                return Err(failed());
            }
        } else if let Some(time) = self.if_unmodified_since
            && object.updated_at.as_secs() > time.as_secs()
        {
            return Err(failed());
        }
        if !self.if_none_match.is_empty() {
            if holds(&self.if_none_match, object) {
                return Ok(Verdict::NotModified);
            }
        } else if let Some(time) = self.if_modified_since
            // Last-Modified is rounded up; see `http::render`.
            && last_modified(object) <= time.as_secs()
        {
            return Ok(Verdict::NotModified);
        }
        Ok(Verdict::Give)
    }

    /// For requests that store or remove; `None` for an object that is not
    /// there.
    pub fn for_write(&self, object: Option<&Object>) -> Result<(), Fault> {
        if !self.if_match.is_empty() && !object.is_some_and(|object| holds(&self.if_match, object))
        {
            return Err(failed());
        }
        if object.is_some_and(|object| holds(&self.if_none_match, object)) {
            return Err(failed());
        }
        if let (Some(time), Some(object)) = (self.if_unmodified_since, object)
            && object.updated_at.as_secs() > time.as_secs()
        {
            return Err(failed());
        }
        Ok(())
    }
}

/// Seconds since the epoch, rounded up as in `Last-Modified`.
pub fn last_modified(object: &Object) -> i64 {
    object
        .updated_at
        .as_micros()
        .saturating_add(999_999)
        .div_euclid(1_000_000)
}

fn holds(tags: &[String], object: &Object) -> bool {
    tags.iter().any(|tag| tag == "*" || *tag == object.etag)
}

fn failed() -> Fault {
    Fault::precondition_failed("A precondition for this request was not met.")
}
