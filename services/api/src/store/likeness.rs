//! The regular expressions of the compute API's filters, as far as they can
//! be turned into a `LIKE` that all three databases understand alike.

use yakumo_types::Fault;

/// A pattern for `LIKE`, lower case, with `!` as its escape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Likeness(String);

impl Likeness {
    /// Reads `^`, `$`, `.`, `.*`, `.+` and escaped characters; the rest of the
    /// language is refused, never guessed at. `what` names the filter.
    pub fn from_regex(what: &str, text: &str) -> Result<Self, Fault> {
        let refuse = |part: char| {
            Fault::invalid(format!(
                "The filter {what} understands ^, $, . and .* of regular expressions, and not '{part}'."
            ))
        };
        if text.chars().count() > 255 {
            return Err(Fault::invalid(format!("The filter {what} is too long.")));
        }
        let mut pattern = String::new();
        let mut rest = text.chars().peekable();
        let anchored = rest.next_if_eq(&'^').is_some();
        if !anchored {
            pattern.push('%');
        }
        let mut ended = false;
        while let Some(c) = rest.next() {
            match c {
                '$' if rest.peek().is_none() => ended = true,
                '.' => match rest.peek() {
                    Some('*') => {
                        rest.next();
                        pattern.push('%');
                    }
                    Some('+') => {
                        rest.next();
                        pattern.push_str("_%");
                    }
                    _ => pattern.push('_'),
                },
                '\\' => match rest.next() {
                    Some(literal) if !literal.is_alphanumeric() => push(&mut pattern, literal),
                    Some(class) => return Err(refuse(class)),
                    None => return Err(refuse('\\')),
                },
                '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | '^' | '$' => {
                    return Err(refuse(c));
                }
                literal => push(&mut pattern, literal),
            }
        }
        if !ended {
            pattern.push('%');
        }
        Ok(Self(pattern.to_lowercase()))
    }

    /// The pattern, whose escape is `!`.
    pub fn pattern(&self) -> String {
        self.0.clone()
    }
}

fn push(pattern: &mut String, literal: char) {
    if matches!(literal, '%' | '_' | '!') {
        pattern.push('!');
    }
    pattern.push(literal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_kept_is_promised() {
        let cases = [
            ("web", "%web%"),
            ("^web$", "web"),
            ("Web.*", "%web%%"),
            ("a.c", "%a_c%"),
            ("10\\.0\\.", "%10.0.%"),
            ("50%_!", "%50!%!_!!%"),
            ("", "%%"),
        ];
        for (regex, pattern) in cases {
            assert_eq!(
                Likeness::from_regex("name", regex).unwrap().pattern(),
                pattern,
                "{regex}"
            );
        }
        for bad in ["(a|b)", "[abc]", "a{2}", "\\d", "a\\", "*a"] {
            assert!(Likeness::from_regex("name", bad).is_err(), "{bad}");
        }
    }
}
