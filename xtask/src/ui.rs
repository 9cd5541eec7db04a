//! Progress that a person can follow: one line per step, with its duration. On
//! a terminal a spinner counts the seconds; elsewhere (CI, a pipe) a step says
//! when it begins, and again from time to time while it takes long.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// How often a step that isn't on a terminal says that it is still at work.
const REMIND: Duration = Duration::from_secs(15);

/// A step under way.
pub struct Step {
    title: String,
    bar: Option<ProgressBar>,
    started: Instant,
    reminded: Mutex<Instant>,
}

impl Step {
    fn begin(title: &str) -> Self {
        let started = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) =
                ProgressStyle::with_template("  {spinner} {prefix} {elapsed} {wide_msg}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            say(&format!("  … {title}"));
        }
        Self {
            title: title.to_owned(),
            bar,
            started,
            reminded: Mutex::new(started),
        }
    }

    /// Says what the step is at; cheap enough to call in a loop.
    pub fn detail(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => {
                let Ok(mut reminded) = self.reminded.lock() else {
                    return;
                };
                if reminded.elapsed() >= REMIND {
                    *reminded = Instant::now();
                    say(&format!(
                        "    {} ({} s): {text}",
                        self.title,
                        self.started.elapsed().as_secs()
                    ));
                }
            }
        }
    }

    fn end(&self, mark: char) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        say(&format!(
            "  {mark} {} ({})",
            self.title,
            seconds(self.started.elapsed())
        ));
    }
}

/// Runs `work` as a step named `title`, visibly.
pub fn step<T>(title: &str, work: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
    let step = Step::begin(title);
    let result = work(&step);
    step.end(if result.is_ok() { '✓' } else { '✗' });
    result
}

/// One line for the person at the terminal.
pub fn say(line: &str) {
    // To standard error, beside the spinner; a closed terminal is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// `12.3 s`, or `4 min 05 s` from two minutes on.
pub fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 120 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}
