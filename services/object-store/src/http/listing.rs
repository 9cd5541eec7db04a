//! Listings as text, JSON and XML.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use yakumo_http::QueryPairs;
use yakumo_types::{Fault, FaultCode};

use super::headers::put;
use super::text;
use crate::app::listing::{Entry, Query};

/// How a listing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One name on each line.
    Text,
    /// A list of objects.
    Json,
    /// `application/xml` or `text/xml`.
    Xml(&'static str),
}

impl Format {
    /// By `format=` and `Accept`; 406 where nothing fits.
    pub fn of(query: &QueryPairs, headers: &HeaderMap) -> Result<Self, Fault> {
        match query.get("format").map(str::to_ascii_lowercase).as_deref() {
            Some("json") => return Ok(Self::Json),
            Some("xml") => return Ok(Self::Xml("application/xml")),
            Some(_) => return Ok(Self::Text),
            None => {}
        }
        let Some(accept) = text(headers, header::ACCEPT.as_str()) else {
            return Ok(Self::Text);
        };
        let mut best: Option<(f32, Self)> = None;
        for part in accept.split(',') {
            let mut words = part.split(';').map(str::trim);
            let format = match words.next().unwrap_or("").to_ascii_lowercase().as_str() {
                "application/json" => Self::Json,
                "application/xml" => Self::Xml("application/xml"),
                "text/xml" => Self::Xml("text/xml"),
                "text/plain" | "text/*" | "*/*" | "" => Self::Text,
                "application/*" => Self::Json,
                _ => continue,
            };
            let quality = words
                .find_map(|word| word.strip_prefix("q="))
                .and_then(|text| text.parse::<f32>().ok())
                .unwrap_or(1.0);
            if quality > 0.0 && best.is_none_or(|(other, _)| quality > other) {
                best = Some((quality, format));
            }
        }
        best.map(|(_, format)| format).ok_or_else(|| {
            Fault::new(
                FaultCode::NotAcceptable,
                "Listings are text/plain, application/json, application/xml or text/xml.",
            )
        })
    }
}

/// Reads what a listing asks for; 412 for a limit over `most`.
pub fn query(pairs: &QueryPairs, most: u64) -> Result<Query, Fault> {
    let one = |name: &str| pairs.get(name).unwrap_or("").to_owned();
    let limit = match pairs.filled("limit") {
        // What is no number counts as none, as in Swift.
        Some(text) => text.parse().unwrap_or(most),
        None => most,
    };
    if limit > most {
        return Err(Fault::precondition_failed(format!(
            "Maximum limit is {most}"
        )));
    }
    for name in ["marker", "end_marker", "prefix", "delimiter"] {
        if pairs.get(name).is_some_and(|value| value.contains('\0')) {
            return Err(Fault::precondition_failed("Invalid UTF8 or contains NULL"));
        }
    }
    Ok(Query {
        limit,
        marker: one("marker"),
        end_marker: one("end_marker"),
        prefix: one("prefix"),
        delimiter: one("delimiter"),
        reverse: pairs.flag("reverse").ok().flatten().unwrap_or(false),
    })
}

/// One line: its name and its other fields, in order.
pub struct Line {
    /// The name.
    pub name: String,
    /// The other fields, by name.
    pub fields: Vec<(&'static str, Value)>,
}

/// The whole answer. `root` is the XML element, with its name attribute, and
/// `item` the element of one line.
pub fn respond<T>(
    format: Format,
    entries: Vec<Entry<T>>,
    root: (&str, &str),
    item: &str,
    line: impl Fn(T) -> Line,
) -> Response {
    let lines = entries.into_iter().map(|entry| match entry {
        Entry::Item(row) => Ok(line(row)),
        Entry::Subdir(name) => Err(name),
    });
    let (content_type, body) = match format {
        Format::Text => {
            let mut out = String::new();
            for line in lines {
                out.push_str(&line.map_or_else(|folder| folder, |line| line.name));
                out.push('\n');
            }
            ("text/plain; charset=utf-8", out)
        }
        Format::Json => {
            let list: Vec<Value> = lines
                .map(|line| match line {
                    Ok(line) => {
                        let mut object = serde_json::Map::new();
                        object.insert("name".into(), line.name.into());
                        for (name, value) in line.fields {
                            object.insert(name.into(), value);
                        }
                        Value::Object(object)
                    }
                    Err(folder) => json!({ "subdir": folder }),
                })
                .collect();
            (
                "application/json; charset=utf-8",
                Value::Array(list).to_string(),
            )
        }
        Format::Xml(kind) => {
            let (element, name) = root;
            let mut out = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{element} name=\"{}\">",
                escape(name)
            );
            for line in lines {
                match line {
                    Ok(line) => {
                        out.push_str(&format!("<{item}><name>{}</name>", escape(&line.name)));
                        for (name, value) in line.fields {
                            let text = match value {
                                Value::String(text) => text,
                                other => other.to_string(),
                            };
                            out.push_str(&format!("<{name}>{}</{name}>", escape(&text)));
                        }
                        out.push_str(&format!("</{item}>"));
                    }
                    Err(folder) => {
                        let folder = escape(&folder);
                        out.push_str(&format!(
                            "<subdir name=\"{folder}\"><name>{folder}</name></subdir>"
                        ));
                    }
                }
            }
            out.push_str(&format!("</{element}>"));
            let kind = match kind {
                "text/xml" => "text/xml; charset=utf-8",
                _ => "application/xml; charset=utf-8",
            };
            (kind, out)
        }
    };
    let is_empty = body.is_empty();
    let mut response = Response::new(Body::from(body));
    put(&mut response, header::CONTENT_TYPE.as_str(), content_type);
    if is_empty {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    response
}

/// XML text; characters that XML cannot hold become the replacement character.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            char if char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}') => {
                out.push('\u{fffd}');
            }
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(query: &str, accept: &str) -> Result<Format, FaultCode> {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        Format::of(&QueryPairs::parse(query).unwrap(), &headers).map_err(|fault| fault.code)
    }

    #[test]
    fn the_query_decides_before_the_header() {
        assert_eq!(format("format=json", "text/plain"), Ok(Format::Json));
        assert_eq!(format("", "application/json"), Ok(Format::Json));
        assert_eq!(format("", "text/xml"), Ok(Format::Xml("text/xml")));
        assert_eq!(
            format("", "text/plain;q=0.5, application/json"),
            Ok(Format::Json)
        );
        assert_eq!(format("", "*/*"), Ok(Format::Text));
        assert_eq!(format("", ""), Ok(Format::Text));
        assert_eq!(format("", "image/png"), Err(FaultCode::NotAcceptable));
    }

    #[test]
    fn xml_holds_any_name() {
        assert_eq!(escape("a<&>\"\u{1}\n"), "a&lt;&amp;&gt;&quot;\u{fffd}&#10;");
    }
}
