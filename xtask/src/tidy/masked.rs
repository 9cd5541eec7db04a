//! Rust source as rules want to see it: code apart from comments and literals,
//! product apart from tests.

/// A source file, split three ways. All three have the length and the line
/// breaks of the original; what does not belong is blank.
pub struct Masked {
    /// Code alone.
    pub code: String,
    /// The content of string literals alone.
    pub strings: String,
    /// For each line, whether it is inside `#[cfg(test)]`.
    pub tests: Vec<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    Line,
    Block(u32),
    Text,
    Raw(usize),
}

impl Masked {
    /// Splits a file. Understands nested comments, raw strings, and character
    /// literals as far as they could be taken for a string's beginning.
    pub fn of(source: &str) -> Self {
        let bytes = source.as_bytes();
        let mut code = Vec::with_capacity(bytes.len());
        let mut strings = Vec::with_capacity(bytes.len());
        let mut state = State::Code;
        let mut at = 0;
        while at < bytes.len() {
            let (next, length) = step(state, &bytes[at..], code.last().copied());
            for &byte in &bytes[at..at + length] {
                let keep_code = state == State::Code && next == State::Code;
                let keep_text = matches!(state, State::Text | State::Raw(_)) && next == state;
                code.push(if keep_code || byte == b'\n' {
                    byte
                } else {
                    b' '
                });
                strings.push(if keep_text || byte == b'\n' {
                    byte
                } else {
                    b' '
                });
            }
            state = next;
            at += length;
        }
        let code = String::from_utf8_lossy(&code).into_owned();
        let strings = String::from_utf8_lossy(&strings).into_owned();
        let tests = test_lines(&code);
        Self {
            code,
            strings,
            tests,
        }
    }
}

/// The state after the next few bytes, and how many those are.
fn step(state: State, rest: &[u8], before: Option<u8>) -> (State, usize) {
    match state {
        State::Code => match rest {
            [b'/', b'/', ..] => (State::Line, 2),
            [b'/', b'*', ..] => (State::Block(1), 2),
            [b'"', ..] => (State::Text, 1),
            [b'r', ..] if !before.is_some_and(is_word) || before == Some(b'b') => {
                let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
                if rest.get(1 + hashes) == Some(&b'"') {
                    (State::Raw(hashes), 2 + hashes)
                } else {
                    (State::Code, 1)
                }
            }
            [b'\'', b'\\', _, b'\'', ..] => (State::Code, 4),
            [b'\'', _, b'\'', ..] => (State::Code, 3),
            _ => (State::Code, 1),
        },
        State::Line => (
            if rest[0] == b'\n' {
                State::Code
            } else {
                State::Line
            },
            1,
        ),
        State::Block(depth) => match rest {
            [b'*', b'/', ..] if depth == 1 => (State::Code, 2),
            [b'*', b'/', ..] => (State::Block(depth - 1), 2),
            [b'/', b'*', ..] => (State::Block(depth + 1), 2),
            _ => (state, 1),
        },
        State::Text => match rest {
            [b'\\', _, ..] => (State::Text, 2),
            [b'"', ..] => (State::Code, 1),
            _ => (State::Text, 1),
        },
        State::Raw(hashes) => {
            let closes = rest[0] == b'"'
                && rest.len() > hashes
                && rest[1..=hashes].iter().all(|byte| *byte == b'#');
            if closes {
                (State::Code, 1 + hashes)
            } else {
                (state, 1)
            }
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Marks the items that stand under `#[cfg(test)]`.
fn test_lines(code: &str) -> Vec<bool> {
    let mut marks = vec![false; code.lines().count() + 1];
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        let end = item_end(&code[start..]) + start;
        let first = code[..start].matches('\n').count();
        let last = code[..end].matches('\n').count();
        marks[first..=last].fill(true);
        from = end;
    }
    marks
}

/// Where an item with its attributes ends: its closing brace or semicolon.
fn item_end(code: &str) -> usize {
    let mut depth = 0_usize;
    let mut brackets = 0_usize;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'[' | b'(' => brackets += 1,
            b']' | b')' => brackets = brackets.saturating_sub(1),
            b'{' => depth += 1,
            b'}' if depth <= 1 => return at + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 && brackets == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_not_code() {
        let masked = Masked::of(
            "a(); // b()\n/* c() /* d() */ e() */ f(\"g() \\\" h()\", r#\"i\"()\"#, '\"', j())\n",
        );
        assert!(
            masked.code.contains("a();")
                && masked.code.contains("f(")
                && masked.code.contains("j()")
        );
        for hidden in ["b()", "c()", "d()", "e()", "g()", "h()", "i\""] {
            assert!(!masked.code.contains(hidden), "{hidden}");
        }
        assert!(masked.strings.contains("g()") && masked.strings.contains("i\"()"));
        assert!(!masked.strings.contains("a()") && !masked.strings.contains("b()"));
    }

    #[test]
    fn lifetimes_do_not_begin_a_literal() {
        let masked = Masked::of("fn a<'a>(b: &'a str) { c(\"d\") }");
        assert!(masked.code.contains("c("));
        assert_eq!(masked.strings.trim(), "d");
    }

    #[test]
    fn test_modules_and_single_items_are_marked() {
        let masked = Masked::of(
            "a();\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nc();\n#[cfg(test)]\nmod d;\ne();\n",
        );
        assert_eq!(
            masked.tests[..9],
            [false, true, true, true, true, false, true, true, false]
        );
    }
}
