//! Writing JSON straight into a string: a page of a thousand servers is
//! rendered from borrowed rows, without a tree in between.

use std::fmt::Write as _;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// A JSON document that is being written.
#[derive(Debug, Default)]
pub(super) struct Json {
    pub out: String,
}

impl Json {
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            out: String::with_capacity(capacity),
        }
    }

    /// JSON as it stands: punctuation, names, and stored documents.
    pub fn raw(&mut self, json: &str) -> &mut Self {
        self.out.push_str(json);
        self
    }

    /// A text in quotes.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.out.push('"');
        let mut clean = 0;
        for (at, byte) in text.bytes().enumerate() {
            let escaped: &str = match byte {
                b'"' => "\\\"",
                b'\\' => "\\\\",
                b'\n' => "\\n",
                b'\r' => "\\r",
                b'\t' => "\\t",
                0..=0x1F => "",
                _ => continue,
            };
            self.out.push_str(text.get(clean..at).unwrap_or_default());
            clean = at + 1;
            if escaped.is_empty() {
                // Writing to a string cannot fail.
                let _ = write!(self.out, "\\u{byte:04x}");
            } else {
                self.out.push_str(escaped);
            }
        }
        self.out.push_str(text.get(clean..).unwrap_or_default());
        self.out.push('"');
        self
    }

    /// A text or null.
    pub fn text_or_null(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.raw("null"),
        }
    }

    pub fn number(&mut self, number: i64) -> &mut Self {
        let _ = write!(self.out, "{number}");
        self
    }

    /// The document as an answer.
    pub fn answer(self, status: StatusCode) -> Response {
        let mut response = (status, self.out).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_comes_back(text in any::<String>()) {
            let mut json = Json::default();
            json.text(&text);
            let back: String = serde_json::from_str(&json.out).unwrap();
            prop_assert_eq!(back, text);
        }
    }
}
