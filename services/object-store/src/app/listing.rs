//! Listings that cost what they return.
//!
//! With a delimiter, everything below a prefix is one entry. Reading all the
//! names below it to leave them out would cost what the container holds, so
//! the listing jumps over them: from the first name of such a *folder* it goes
//! on behind the last one that could be in it.

use std::future::Future;

use yakumo_types::Fault;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// At most so many entries.
    pub limit: u64,
    /// Behind this name.
    pub marker: String,
    /// Before this name.
    pub end_marker: String,
    /// Only names that begin so.
    pub prefix: String,
    /// Names that share what stands before it (behind the prefix) are one entry.
    pub delimiter: String,
    /// From the last to the first.
    pub reverse: bool,
}

/// A stretch of names, as bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// From here; `true` if the name itself belongs to it.
    pub low: Option<(Vec<u8>, bool)>,
    /// Up to here, which does not belong to it.
    pub high: Option<Vec<u8>>,
    /// From the last to the first.
    pub reverse: bool,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry<T> {
    /// A thing of that name.
    Item(T),
    /// Everything whose name begins so.
    Subdir(String),
}

/// Rows that are read at first; doubled as long as they are all used.
const FIRST_BATCH: u64 = 32;
/// Rows that are read at a time.
const MAX_BATCH: u64 = 1_000;

impl Query {
    /// The whole stretch that is asked for.
    fn bounds(&self) -> Bounds {
        // In reverse, the marker is the upper end.
        let (from, to) = match self.reverse {
            false => (&self.marker, &self.end_marker),
            true => (&self.end_marker, &self.marker),
        };
        let mut bounds = Bounds {
            reverse: self.reverse,
            ..Bounds::default()
        };
        if !self.prefix.is_empty() {
            bounds.raise_low(self.prefix.clone().into_bytes(), true);
            if let Some(end) = behind(self.prefix.as_bytes()) {
                bounds.lower_high(end);
            }
        }
        if !from.is_empty() {
            bounds.raise_low(from.clone().into_bytes(), false);
        }
        if !to.is_empty() {
            bounds.lower_high(to.clone().into_bytes());
        }
        bounds
    }

    /// The folder that a name is in, if it is in one.
    fn folder<'a>(&self, name: &'a str) -> Option<&'a str> {
        if self.delimiter.is_empty() {
            return None;
        }
        let rest = name.get(self.prefix.len()..)?;
        let end = rest.find(&self.delimiter)?;
        name.get(..self.prefix.len() + end + self.delimiter.len())
    }
}

impl Bounds {
    fn raise_low(&mut self, bound: Vec<u8>, inclusive: bool) {
        let higher = match &self.low {
            None => true,
            Some((low, was_inclusive)) => {
                bound > *low || (bound == *low && *was_inclusive && !inclusive)
            }
        };
        if higher {
            self.low = Some((bound, inclusive));
        }
    }

    fn lower_high(&mut self, bound: Vec<u8>) {
        if self.high.as_ref().is_none_or(|high| bound < *high) {
            self.high = Some(bound);
        }
    }

    fn is_empty(&self) -> bool {
        match (&self.low, &self.high) {
            (Some((low, _)), Some(high)) => low >= high,
            _ => false,
        }
    }

    /// Goes on behind an item.
    fn pass_item(&mut self, name: &str) {
        let name = name.as_bytes().to_vec();
        match self.reverse {
            false => self.raise_low(name, false),
            true => self.lower_high(name),
        }
    }

    /// Goes on behind a folder; `false` if there can be nothing behind it.
    fn pass_folder(&mut self, folder: &str) -> bool {
        match self.reverse {
            false => match behind(folder.as_bytes()) {
                Some(next) => {
                    self.raise_low(next, true);
                    true
                }
                None => false,
            },
            true => {
                self.lower_high(folder.as_bytes().to_vec());
                true
            }
        }
    }
}

/// The first byte string that is behind everything that begins with `prefix`.
fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < 0xff)?;
    let mut next = prefix.get(..=last)?.to_vec();
    if let Some(byte) = next.last_mut() {
        *byte += 1;
    }
    Some(next)
}

/// Collects the entries. `fetch` reads up to so many rows of a stretch, in
/// its order; `name` tells a row's name.
pub async fn collect<T, F>(
    query: &Query,
    mut fetch: impl FnMut(Bounds, u64) -> F,
    name: impl Fn(&T) -> &str,
) -> Result<Vec<Entry<T>>, Fault>
where
    F: Future<Output = Result<Vec<T>, Fault>>,
{
    let mut entries: Vec<Entry<T>> = Vec::new();
    let mut bounds = query.bounds();
    let mut batch = match query.delimiter.is_empty() {
        true => query.limit.min(MAX_BATCH),
        false => FIRST_BATCH,
    };
    loop {
        let missing = query.limit.saturating_sub(entries.len() as u64);
        if missing == 0 || bounds.is_empty() {
            return Ok(entries);
        }
        let wanted = batch.min(missing).max(1);
        let rows = fetch(bounds.clone(), wanted).await?;
        let last_batch = (rows.len() as u64) < wanted;
        let mut skipped = 0_u64;
        let mut current: Option<String> = None;
        for row in rows {
            let row_name = name(&row);
            if let Some(folder) = &current
                && row_name.starts_with(folder.as_str())
            {
                skipped += 1;
                continue;
            }
            match query.folder(row_name) {
                None => {
                    bounds.pass_item(row_name);
                    entries.push(Entry::Item(row));
                }
                Some(folder) => {
                    let folder = folder.to_owned();
                    let more = bounds.pass_folder(&folder);
                    // A page that ended with this folder must not begin with it.
                    let seen = match query.reverse {
                        false => query.marker.starts_with(&folder),
                        true => false,
                    };
                    if !seen {
                        entries.push(Entry::Subdir(folder.clone()));
                    }
                    if !more {
                        return Ok(entries);
                    }
                    current = Some(folder);
                }
            }
        }
        if last_batch {
            return Ok(entries);
        }
        // Where most rows were skipped, large batches are a waste.
        batch = match skipped * 2 > wanted {
            true => FIRST_BATCH,
            false => (batch * 2).min(MAX_BATCH),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::BTreeSet;

    /// Lists `names`; returns the entries, folders with a star, and how many
    /// rows were read.
    fn list(names: &BTreeSet<String>, query: Query) -> (Vec<String>, usize) {
        let read = Cell::new(0);
        let entries = futures::executor::block_on(collect(
            &query,
            |bounds, limit| {
                let fits = |name: &&String| {
                    let name = name.as_bytes();
                    let low = bounds.low.as_ref().is_none_or(|(low, inclusive)| {
                        name > low.as_slice() || (*inclusive && name == low.as_slice())
                    });
                    low && bounds
                        .high
                        .as_ref()
                        .is_none_or(|high| name < high.as_slice())
                };
                let mut rows: Vec<String> = names.iter().filter(fits).cloned().collect();
                if bounds.reverse {
                    rows.reverse();
                }
                rows.truncate(usize::try_from(limit).unwrap());
                read.set(read.get() + rows.len());
                std::future::ready(Ok(rows))
            },
            |name: &String| name.as_str(),
        ))
        .unwrap();
        let lines = entries
            .into_iter()
            .map(|entry| match entry {
                Entry::Item(name) => name,
                Entry::Subdir(folder) => format!("{folder}*"),
            })
            .collect();
        (lines, read.get())
    }

    fn query(limit: u64) -> Query {
        Query {
            limit,
            ..Query::default()
        }
    }

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_below_a_folder_are_one_entry() {
        let names = names(&["a", "b/1", "b/2", "b/c/3", "c", "d/", "e//f"]);
        let with = |prefix: &str, reverse| Query {
            prefix: prefix.into(),
            delimiter: "/".into(),
            reverse,
            ..query(100)
        };
        assert_eq!(
            list(&names, with("", false)).0,
            ["a", "b/*", "c", "d/*", "e/*"]
        );
        assert_eq!(
            list(&names, with("", true)).0,
            ["e/*", "d/*", "c", "b/*", "a"]
        );
        assert_eq!(list(&names, with("b/", false)).0, ["b/1", "b/2", "b/c/*"]);
        assert_eq!(list(&names, with("b/", true)).0, ["b/c/*", "b/2", "b/1"]);
        assert_eq!(list(&names, with("b", false)).0, ["b/*"]);
        assert_eq!(list(&names, with("d/", false)).0, ["d/"]);
        assert_eq!(list(&names, with("x", false)).0, Vec::<String>::new());
    }

    #[test]
    fn pages_follow_each_other_without_gaps() {
        let all: BTreeSet<String> = (0..100)
            .map(|n| match n % 3 {
                0 => format!("file-{n:03}"),
                _ => format!("folder-{:02}/{n:03}", n / 10),
            })
            .collect();
        for reverse in [false, true] {
            for delimiter in ["", "/"] {
                let whole = Query {
                    delimiter: delimiter.into(),
                    reverse,
                    ..query(1000)
                };
                let (expected, _) = list(&all, whole.clone());
                let mut seen: Vec<String> = Vec::new();
                loop {
                    let marker = seen.last().map_or("", |last| last.trim_end_matches('*'));
                    let page = Query {
                        limit: 7,
                        marker: marker.into(),
                        ..whole.clone()
                    };
                    let (lines, _) = list(&all, page);
                    if lines.is_empty() {
                        break;
                    }
                    seen.extend(lines);
                }
                assert_eq!(seen, expected, "reverse {reverse}, delimiter {delimiter:?}");
            }
        }
    }

    #[test]
    fn markers_bound_a_listing_on_both_sides() {
        let names = names(&["a", "b", "c", "d"]);
        let page = |marker: &str, end: &str, reverse| Query {
            marker: marker.into(),
            end_marker: end.into(),
            reverse,
            ..query(100)
        };
        assert_eq!(list(&names, page("a", "d", false)).0, ["b", "c"]);
        assert_eq!(list(&names, page("d", "a", true)).0, ["c", "b"]);
        assert_eq!(list(&names, page("d", "a", false)).0, Vec::<String>::new());
    }

    #[test]
    fn a_listing_costs_what_it_returns() {
        let all: BTreeSet<String> = (0..10)
            .flat_map(|folder| (0..5_000).map(move |n| format!("{folder}/{n:05}")))
            .collect();
        let folders = Query {
            delimiter: "/".into(),
            ..query(10_000)
        };
        let (lines, read) = list(&all, folders);
        assert_eq!(lines.len(), 10);
        assert!(read <= 11 * 64, "{read} rows were read");
    }

    #[test]
    fn what_is_behind_a_prefix() {
        assert_eq!(behind(b"a/"), Some(b"a0".to_vec()));
        assert_eq!(behind(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(behind(b"\xff"), None);
        assert_eq!(behind(b""), None);
    }
}
