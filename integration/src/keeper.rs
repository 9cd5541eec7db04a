//! Clears up after a test, even one that was killed: a shell of our own reads
//! what there is to clear from a pipe, and the end of the pipe is the order.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result};

/// Lines: `add PID`, `remove PID`, `finally COMMAND`.
const SHELL: &str = r#"
pids=" "
finally=
while read -r order rest; do
    case "$order" in
        add) pids="$pids$rest " ;;
        remove) pids=$(printf %s "$pids" | sed "s/ $rest / /") ;;
        finally) finally="$rest
$finally" ;;
    esac
done
for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
eval "$finally" >/dev/null 2>&1
"#;

/// See the module.
pub struct Keeper {
    child: Child,
    orders: Option<ChildStdin>,
}

impl Keeper {
    /// Starts one.
    pub fn start() -> Result<Self> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", SHELL])
            // A signal for the test program's group is not for the keeper.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("the shell that clears up")?;
        let orders = child.stdin.take();
        Ok(Self { child, orders })
    }

    fn order(&mut self, line: &str) -> Result<()> {
        let orders = self.orders.as_mut().context("the keeper has ended")?;
        writeln!(orders, "{line}")?;
        Ok(orders.flush()?)
    }

    /// This process is to end with us.
    pub fn add(&mut self, pid: u32) -> Result<()> {
        self.order(&format!("add {pid}"))
    }

    /// This process has ended and was waited for; its id may be somebody else's now.
    pub fn remove(&mut self, pid: u32) -> Result<()> {
        self.order(&format!("remove {pid}"))
    }

    /// A shell command to run at the end; the last one first.
    pub fn finally(&mut self, command: &str) -> Result<()> {
        self.order(&format!("finally {command}"))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}
