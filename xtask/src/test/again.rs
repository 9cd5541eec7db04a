//! Which tests failed, and how cargo runs just those again.

/// More failures than this are no accident, and get no second try.
const FEW: usize = 3;

/// The failed tests of a run of `cargo test`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Failures {
    /// Their names.
    pub(super) tests: Vec<String>,
    /// What selects the binaries that they are in: `-p yakumo-volume --test main`.
    pub(super) targets: Vec<String>,
}

impl Failures {
    /// Takes in one line of cargo's output.
    pub(super) fn read(&mut self, line: &str) {
        let line = line.trim();
        let test = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"));
        if let Some(name) = test {
            self.tests.push(name.to_owned());
        }
        let target = line
            .strip_prefix("error: test failed, to rerun pass `")
            .and_then(|rest| rest.strip_suffix('`'));
        if let Some(target) = target {
            self.targets.push(target.to_owned());
        }
    }

    /// Whether these are all of the `failed` tests, and few. A binary that died
    /// names no test.
    pub(super) fn explain(&self, failed: u64) -> bool {
        (1..=FEW).contains(&self.tests.len())
            && u64::try_from(self.tests.len()) == Ok(failed)
            && self.targets.len() <= self.tests.len()
    }

    /// Cargo's arguments to run the failed tests. `selection` is what the run
    /// was begun with: of other packages, cargo would build other programs.
    pub(super) fn command(&self, selection: &[&str]) -> Vec<String> {
        // Named targets come in the place of all of them.
        let selection = selection.iter().filter(|word| **word != "--tests");
        let mut words: Vec<String> = selection.map(|word| (*word).to_owned()).collect();
        for target in &self.targets {
            let mut target = target.split_whitespace();
            while let Some(word) = target.next() {
                match word {
                    "-p" => drop(target.next()),
                    word => words.push(word.to_owned()),
                }
            }
        }
        words.extend(["--", "--exact"].map(str::to_owned));
        words.extend(self.tests.iter().cloned());
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(lines: &[&str]) -> Failures {
        let mut failures = Failures::default();
        for line in lines {
            failures.read(line);
        }
        failures
    }

    #[test]
    fn failed_tests_are_run_again_where_they_are() {
        let failures = failures(&[
            "test one::works ... ok",
            "test one::breaks ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
            "error: test failed, to rerun pass `-p yakumo-volume --test main`",
            "error: 1 target failed:",
        ]);
        assert!(failures.explain(1));
        let command = failures.command(&["test", "--workspace", "--tests", "--no-fail-fast"]);
        let words = "test --workspace --no-fail-fast --test main -- --exact one::breaks";
        assert_eq!(command, words.split(' ').collect::<Vec<_>>());
    }

    #[test]
    fn many_failures_and_dead_binaries_get_no_second_try() {
        let many: Vec<String> = (0..4).map(|n| format!("test t{n} ... FAILED")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(!failures(&many).explain(4));
        let died = "error: test failed, to rerun pass `-p yakumo-rpc --lib`";
        assert!(!failures(&[died]).explain(0));
        assert!(!failures(&["test t ... FAILED", died]).explain(2));
        assert!(!failures(&["test t ... FAILED", died, died]).explain(1));
    }
}
