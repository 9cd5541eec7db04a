//! What was measured: medians over repetitions, with the smallest and largest.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

struct Row {
    name: String,
    unit: &'static str,
    aim: &'static str,
    values: Vec<f64>,
}

impl Row {
    /// Smallest, median and largest.
    fn spread(&self) -> (f64, f64, f64) {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        (
            at(0),
            at(sorted.len() / 2),
            at(sorted.len().saturating_sub(1)),
        )
    }
}

/// Everything measured so far.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// One more repetition of `name`; shown at once.
    pub fn add(&mut self, name: &str, unit: &'static str, aim: &'static str, value: f64) {
        eprintln!("  {name}: {} {unit}", number(value));
        if let Some(row) = self.rows.iter_mut().find(|row| row.name == name) {
            row.values.push(value);
            return;
        }
        self.rows.push(Row {
            name: name.to_owned(),
            unit,
            aim,
            values: vec![value],
        });
    }

    /// A Markdown table.
    pub fn table(&self) -> String {
        let mut table =
            String::from("| What | Median | Spread | Unit | Aim |\n|---|---|---|---|---|\n");
        for row in &self.rows {
            let (low, median, high) = row.spread();
            let _ = writeln!(
                table,
                "| {} | {} | {} – {} | {} | {} |",
                row.name,
                number(median),
                number(low),
                number(high),
                row.unit,
                row.aim
            );
        }
        table
    }

    /// The same for programs, with every repetition.
    pub fn json(&self) -> Result<String> {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let (low, median, high) = row.spread();
                json!({
                    "name": row.name, "unit": row.unit, "aim": row.aim, "median": median,
                    "min": low, "max": high, "values": row.values,
                })
            })
            .collect();
        Ok(serde_json::to_string_pretty(&json!({"results": rows}))? + "\n")
    }
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Milliseconds.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The value that `share` (0 to 1) of all are not above.
pub fn percentile(all: &mut [Duration], share: f64) -> Duration {
    all.sort_unstable();
    let last = all.len().saturating_sub(1);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let index = (count(last) * share).round() as usize;
    all.get(index.min(last)).copied().unwrap_or_default()
}

/// A count as a number to divide by.
#[allow(clippy::cast_precision_loss)]
pub fn count(count: usize) -> f64 {
    count as f64
}
