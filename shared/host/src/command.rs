//! Running a program to its end, with a bound on time, memory and output.

use std::fmt;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// The most that is kept of a program's output, each of stdout and stderr.
const OUTPUT_LIMIT: u64 = 64 * 1024 * 1024;

/// Bounds that the kernel enforces on a program, set by `prlimit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Address space in bytes.
    pub address_space: u64,
    /// CPU time in seconds.
    pub cpu_seconds: u64,
}

/// A program to run, with everything that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmd {
    /// The program's name or path.
    pub program: String,
    /// Its arguments, passed as they are: no shell reads them.
    pub args: Vec<String>,
    /// What it reads; nothing if `None`.
    pub stdin: Option<Vec<u8>>,
    /// How long it may take; it is killed after that. 30 seconds by default.
    pub timeout: Duration,
    /// Bounds that the kernel enforces.
    pub limits: Option<Limits>,
}

impl Cmd {
    /// A program with its arguments.
    pub fn new<I, S>(program: impl Into<String>, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            stdin: None,
            timeout: Duration::from_secs(30),
            limits: None,
        }
    }

    /// The program reads this.
    #[must_use]
    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(text.into());
        self
    }

    /// The program may take this long.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The program runs under these limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.program)?;
        for arg in &self.args {
            write!(out, " {arg}")?;
        }
        Ok(())
    }
}

/// What a program left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    /// What it wrote, at most 64 MiB.
    pub stdout: Vec<u8>,
    /// What it complained about, at most 64 MiB.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether the program says that all went well.
    pub fn success(&self) -> bool {
        self.status == Some(0)
    }

    /// Standard output as text; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }

    /// A successful output with this text, for fakes.
    pub fn of(text: impl Into<String>) -> Self {
        Self {
            status: Some(0),
            stdout: text.into().into_bytes(),
            stderr: Vec::new(),
        }
    }
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started: most often it is not installed.
    #[error("{command} could not be started")]
    Start {
        /// The command line.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Reading from it or writing to it failed.
    #[error("the pipe of {command} broke")]
    Pipe {
        /// The command line.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended with another status than zero.
    #[error("{command} ended with status {status:?}: {complaint}")]
    Failed {
        /// The command line.
        command: String,
        /// The status, or `None` after a signal.
        status: Option<i32>,
        /// The end of its standard error.
        complaint: String,
    },
    /// It was killed because it took too long.
    #[error("{command} took longer than {limit:?}")]
    TimedOut {
        /// The command line.
        command: String,
        /// The bound.
        limit: Duration,
    },
}

impl CommandError {
    /// What the program wrote to standard error, if it got that far.
    pub fn complaint(&self) -> &str {
        match self {
            Self::Failed { complaint, .. } => complaint,
            Self::Start { .. } | Self::Pipe { .. } | Self::TimedOut { .. } => "",
        }
    }
}

/// Runs programs, or plays that it does.
#[async_trait]
pub trait CommandRunner: Send + Sync {
    /// Runs a program to its end, whatever its status.
    async fn execute(&self, cmd: &Cmd) -> Result<Output, CommandError>;

    /// Runs a program that must succeed.
    async fn run(&self, cmd: Cmd) -> Result<Output, CommandError> {
        let output = self.execute(&cmd).await?;
        if output.success() {
            return Ok(output);
        }
        let complaint = output.complaint();
        let start = complaint
            .char_indices()
            .rev()
            .nth(1999)
            .map_or(0, |(index, _)| index);
        Err(CommandError::Failed {
            command: cmd.to_string(),
            status: output.status,
            complaint: complaint.get(start..).unwrap_or_default().to_owned(),
        })
    }
}

/// Runs programs on this machine, inside one network namespace if one is named.
#[derive(Debug, Clone, Default)]
pub struct RealRunner {
    netns: Option<String>,
}

impl RealRunner {
    /// Runs programs in the machine's own namespaces.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs programs inside the named network namespace; an empty name or
    /// `None` means the machine's own.
    pub fn in_netns(netns: Option<&str>) -> Self {
        Self {
            netns: netns.filter(|name| !name.is_empty()).map(str::to_owned),
        }
    }

    /// The namespace that programs run in.
    pub fn netns(&self) -> Option<&str> {
        self.netns.as_deref()
    }
}

/// The words of a command line: `ip netns exec` and `prlimit` in front of the
/// program where they are wanted. Both replace themselves by the program, so
/// the process id is the program's own.
pub(crate) fn command_line(
    netns: Option<&str>,
    limits: Option<Limits>,
    program: &str,
    args: &[String],
) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    if let Some(name) = netns {
        words.extend(["ip", "netns", "exec", name].map(str::to_owned));
    }
    if let Some(limits) = limits {
        words.push("prlimit".to_owned());
        words.push(format!("--as={}", limits.address_space));
        words.push(format!("--cpu={}", limits.cpu_seconds));
    }
    words.push(program.to_owned());
    words.extend(args.iter().cloned());
    words
}

#[async_trait]
impl CommandRunner for RealRunner {
    async fn execute(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        let words = command_line(self.netns(), cmd.limits, &cmd.program, &cmd.args);
        let mut words = words.into_iter();
        let program = words.next().unwrap_or_default();
        #[allow(
            clippy::disallowed_methods,
            reason = "this is the room that starts processes"
        )]
        let mut child = Command::new(program)
            .args(words)
            .env("LC_ALL", "C")
            .stdin(if cmd.stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| CommandError::Start {
                command: cmd.to_string(),
                source,
            })?;
        let input = child.stdin.take();
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let work = async {
            let feed = async {
                if let (Some(mut pipe), Some(text)) = (input, cmd.stdin.as_deref()) {
                    // A program may end without reading all of its input; its
                    // status then says more than the broken pipe.
                    let _ = pipe.write_all(text).await;
                    let _ = pipe.shutdown().await;
                }
            };
            let ((), out, err) = tokio::join!(feed, read_all(stdout), read_all(stderr));
            let status = child.wait().await?;
            Ok::<_, std::io::Error>(Output {
                status: status.code(),
                stdout: out?,
                stderr: err?,
            })
        };
        match tokio::time::timeout(cmd.timeout, work).await {
            Ok(result) => result.map_err(|source| CommandError::Pipe {
                command: cmd.to_string(),
                source,
            }),
            Err(_) => Err(CommandError::TimedOut {
                command: cmd.to_string(),
                limit: cmd.timeout,
            }),
        }
    }
}

async fn read_all<R: tokio::io::AsyncRead + Unpin>(pipe: Option<R>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let mut bounded = pipe.take(OUTPUT_LIMIT);
        bounded.read_to_end(&mut bytes).await?;
        // What is over the bound is read and thrown away, so that the program can end.
        tokio::io::copy(&mut bounded.into_inner(), &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

type Answer = dyn Fn(&Cmd) -> Result<Output, CommandError> + Send + Sync;

/// Remembers what it was asked to run, and answers as it was told.
#[derive(Clone)]
pub struct FakeRunner {
    ran: Arc<Mutex<Vec<Cmd>>>,
    answer: Arc<Answer>,
}

impl Default for FakeRunner {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeRunner {
    /// Every program succeeds and says nothing.
    pub fn new() -> Self {
        Self::answering(|_| Ok(Output::of("")))
    }

    /// Every program answers as `answer` says.
    pub fn answering(
        answer: impl Fn(&Cmd) -> Result<Output, CommandError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            ran: Arc::default(),
            answer: Arc::new(answer),
        }
    }

    /// Everything that was run so far, in order.
    pub fn commands(&self) -> Vec<Cmd> {
        self.ran
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// The command lines of everything that was run so far.
    pub fn lines(&self) -> Vec<String> {
        self.commands().iter().map(ToString::to_string).collect()
    }
}

#[async_trait]
impl CommandRunner for FakeRunner {
    async fn execute(&self, cmd: &Cmd) -> Result<Output, CommandError> {
        self.ran
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(cmd.clone());
        (self.answer)(cmd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_gets_its_input_and_gives_its_output() {
        let output = RealRunner::new()
            .run(Cmd::new("cat", [] as [&str; 0]).stdin("hello"))
            .await
            .unwrap();
        assert_eq!(output.text(), "hello");
    }

    #[tokio::test]
    async fn a_failure_keeps_the_complaint() {
        let error = RealRunner::new()
            .run(Cmd::new("sh", ["-c", "echo no good >&2; exit 3"]))
            .await
            .unwrap_err();
        assert_eq!(error.complaint(), "no good");
        assert!(matches!(
            error,
            CommandError::Failed {
                status: Some(3),
                ..
            }
        ));
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed() {
        let error = RealRunner::new()
            .run(Cmd::new("sleep", ["60"]).timeout(Duration::from_millis(50)))
            .await
            .unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let error = RealRunner::new()
            .run(Cmd::new("no-such-program", ["x"]))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "no-such-program x could not be started");
    }

    #[test]
    fn namespace_and_limits_come_before_the_program() {
        let limits = Limits {
            address_space: 1024,
            cpu_seconds: 5,
        };
        assert_eq!(
            command_line(Some("blue"), Some(limits), "qemu-img", &["info".to_owned()]).join(" "),
            "ip netns exec blue prlimit --as=1024 --cpu=5 qemu-img info"
        );
    }
}
