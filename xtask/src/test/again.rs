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

    /// Cargo's arguments to run each binary's failed tests.
    pub(super) fn commands(&self) -> impl Iterator<Item = Vec<String>> + '_ {
        self.targets.iter().map(|target| {
            let words = ["test"].into_iter().chain(target.split_whitespace());
            let names = self.tests.iter().map(String::as_str);
            words
                .chain(["--", "--exact"])
                .chain(names)
                .map(str::to_owned)
                .collect()
        })
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
        let commands: Vec<_> = failures.commands().collect();
        let words = "test -p yakumo-volume --test main -- --exact one::breaks";
        assert_eq!(commands, [words.split(' ').collect::<Vec<_>>()]);
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
