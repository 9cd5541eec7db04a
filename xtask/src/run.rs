//! Starting programs: their output goes to a log and, when they fail, its end
//! into the error, so that a person sees the reason and not only an exit code.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::ui::Step;

/// How many lines of a failed program's output are shown.
const TAIL: usize = 25;

/// Keeps from a program what is said in this one's environment and not meant for it.
fn forget_others(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_for_others) {
            command.env_remove(name);
        }
    }
}

/// Whether a variable is what cargo says of this program: build scripts read it as
/// theirs, and cargo would run them again, and build all that stands on them, each
/// time that it is started by this program after it was by a person. Or which cloud
/// a person's shell speaks to: clients prefer that to the cloud that they are named.
fn is_for_others(name: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "OS_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// A program to run to its end.
pub struct Run {
    command: Command,
    shown: String,
    log: Option<PathBuf>,
}

impl Run {
    /// A program and its arguments.
    pub fn new(
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Self {
        let mut command = Command::new(&program);
        let mut shown = program.as_ref().to_string_lossy().into_owned();
        for argument in arguments {
            shown.push(' ');
            shown.push_str(&argument.as_ref().to_string_lossy());
            command.arg(argument);
        }
        command.stdin(Stdio::null());
        forget_others(&mut command);
        Self {
            command,
            shown,
            log: None,
        }
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets environment variables.
    pub fn envs<'a>(mut self, all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.command.envs(all);
        self
    }

    /// Sets the working directory.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Appends the output to this file, too.
    pub fn log(mut self, file: &Path) -> Self {
        self.log = Some(file.to_owned());
        self
    }

    /// Runs it; an error holds the end of what it said.
    pub fn done(self) -> Result<()> {
        self.text().map(|_| ())
    }

    /// Runs it and gives its standard output.
    pub fn text(mut self) -> Result<String> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self
            .command
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.shown))?;
        let output = child
            .wait_with_output()
            .with_context(|| format!("lost `{}`", self.shown))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        if let Some(log) = &self.log {
            append(log, &format!("$ {}\n{text}{complaint}", self.shown))?;
        }
        if !output.status.success() {
            let all = format!("{text}\n{complaint}");
            bail!(
                "`{}` failed ({}):\n{}",
                self.shown,
                output.status,
                tail(&all)
            );
        }
        Ok(text)
    }

    /// Runs it and says whether it ended well.
    pub fn succeeds(self) -> bool {
        self.text().is_ok()
    }

    /// Runs it with the step showing its last line; the output goes to the log.
    pub fn followed(self, step: &Step) -> Result<()> {
        self.lines(|line| {
            if !line.trim().is_empty() {
                step.detail(line.trim());
            }
        })
    }

    /// Runs it and hands each line to `each` as it comes, from both outputs; an
    /// error holds the last of them.
    pub fn lines(mut self, mut each: impl FnMut(&str)) -> Result<()> {
        if let Some(log) = &self.log {
            append(log, &format!("$ {}\n", self.shown))?;
        }
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.shown))?;
        let (sender, lines) = std::sync::mpsc::channel::<String>();
        let outputs: [Option<Box<dyn std::io::Read + Send>>; 2] = [
            child
                .stdout
                .take()
                .map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>),
            child
                .stderr
                .take()
                .map(|pipe| Box::new(pipe) as Box<dyn std::io::Read + Send>),
        ];
        for pipe in outputs.into_iter().flatten() {
            let sender = sender.clone();
            // Ends with its pipe. Not waited for: a grandchild that went into
            // the background may hold the pipe for good.
            std::thread::spawn(move || {
                let mut pipe = BufReader::new(pipe);
                let mut line = Vec::new();
                while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    let text = String::from_utf8_lossy(&line)
                        .trim_end_matches(['\n', '\r'])
                        .to_owned();
                    line.clear();
                    if sender.send(text).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut all = String::new();
        let status = loop {
            match lines.recv_timeout(Duration::from_millis(200)) {
                Ok(line) => {
                    each(&line);
                    all.push_str(&line);
                    all.push('\n');
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(status) = child.try_wait()? {
                        break status;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    break child
                        .wait()
                        .with_context(|| format!("lost `{}`", self.shown))?;
                }
            }
        };
        if let Some(log) = &self.log {
            append(log, &all)?;
        }
        if !status.success() {
            bail!("`{}` failed ({status}):\n{}", self.shown, tail(&all));
        }
        Ok(())
    }
}

/// Where a program is; looks into the administrator's folders, too.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Polls until `check` gives something, for at most `bound`.
pub fn wait_for<T>(
    bound: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let started = Instant::now();
    loop {
        if let Some(value) = check()? {
            return Ok(Some(value));
        }
        if started.elapsed() >= bound {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The end of a text, indented.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let from = lines.len().saturating_sub(TAIL);
    lines[from..]
        .iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn append(log: &Path, text: &str) -> Result<()> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(log)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_others_is_not_passed_on() {
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "OS_AUTH_URL"] {
            assert!(is_for_others(name), "{name}");
        }
        for name in ["PATH", "CARGO_TARGET_DIR", "HOME", "OSTYPE"] {
            assert!(!is_for_others(name), "{name}");
        }
    }
}
