//! One picture of the terminal view: a pure function from what the files hold to lines of text.

use super::chart::chart;
use crate::terminal::clean;
use bso_runs::report::{MethodReport, ReportData, number};
use bso_runs::{Quadrant, key};

/// How large the picture may be, and what it shows.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Which of several runs, counted around.
    pub run: usize,
}

impl Frame {
    /// At most `height` lines of at most `width` characters.
    pub fn lines(&self, data: &ReportData, footer: &str) -> Vec<String> {
        let mut lines = vec![bold(&self.cut(&data.title)), self.cut(&data.summary)];
        let runs: Vec<&MethodReport> = data.methods.iter().filter(|m| !m.curves.is_empty()).collect();
        if let Some(run) = runs.get(self.run % runs.len().max(1)) {
            if runs.len() > 1 {
                lines.push(self.cut(&format!(
                    "{} ({} of {})",
                    run.name,
                    self.run % runs.len() + 1,
                    runs.len()
                )));
            } else {
                let figures: Vec<String> =
                    data.key_figures.iter().map(|f| format!("{} {} {}", f.label, f.value, f.note)).collect();
                lines.push(self.cut(&figures.join(" · ")));
            }
            lines.push(String::new());
            // What is left for the two curves after quadrants, warnings and the last line.
            let below = self.quadrants(run).len() + self.findings(run, &data.problems).len() + 4;
            lines.extend(self.curves(run, self.height.saturating_sub(lines.len() + below)));
            lines.extend(self.quadrants(run));
            lines.extend(self.findings(run, &data.problems));
        } else {
            lines.extend(data.problems.iter().map(|problem| self.cut(problem)));
        }
        lines.truncate(self.height.saturating_sub(1));
        lines.push(dim(&self.cut(footer)));
        lines
    }

    fn cut(&self, text: &str) -> String {
        let text = clean(text).replace(['\n', '\t'], " ");
        if text.chars().count() <= self.width {
            return text;
        }
        text.chars().take(self.width.saturating_sub(1)).chain(['…']).collect()
    }

    /// Loss and margin, side by side where there is room.
    fn curves(&self, run: &MethodReport, rows: usize) -> Vec<String> {
        let beside = self.width >= 90;
        let height = if beside { rows.min(16) } else { rows.saturating_sub(2).min(24) / 2 };
        let width = if beside { self.width / 2 - 1 } else { self.width };
        let one = |key: &str, title: &str| {
            let curve = run.curves.iter().find(|c| c.key == key)?;
            let last = curve.points.iter().rev().find_map(|(step, value)| Some((*step, (*value)?)));
            let last = last.map_or(String::new(), |(step, v)| format!(" {} at step {step}", number(v)));
            let title: String = format!("{title}{last}").chars().take(width).collect();
            let mut lines = vec![format!("{title:<width$}")];
            lines.extend(chart(&curve.points, width, height)?);
            Some(lines)
        };
        let charts: Vec<Vec<String>> = [(key::LOSS, "loss"), (key::REWARDS_MARGINS, "margin")]
            .iter()
            .filter_map(|(k, t)| one(k, t))
            .collect();
        match charts.as_slice() {
            [loss, margin] if beside => loss.iter().zip(margin).map(|(a, b)| format!("{a}  {b}")).collect(),
            charts => charts.concat(),
        }
    }

    fn quadrants(&self, run: &MethodReport) -> Vec<String> {
        let last = |quadrant: Quadrant, name: &str| {
            let key = format!("{}{name}", quadrant.prefix());
            let curve = run.curves.iter().find(|c| c.key == key)?;
            curve.points.iter().rev().find_map(|(_, value)| *value)
        };
        let row = |quadrant: Quadrant| {
            let log_r = last(quadrant, key::LOG_R)?;
            let clamped = last(quadrant, key::FRAC_CLAMPED).unwrap_or(f64::NAN);
            Some(self.cut(&format!(
                "{:<36}{:>10}{:>11.1} %",
                quadrant.in_words(),
                number(log_r),
                100.0 * clamped
            )))
        };
        let rows: Vec<String> = Quadrant::ALL.into_iter().filter_map(row).collect();
        if rows.is_empty() {
            return rows;
        }
        let head = bold(&self.cut(&format!("{:<36}{:>10}{:>13}", "quadrant", "log R", "clamped")));
        [String::new(), head].into_iter().chain(rows).collect()
    }

    fn findings(&self, run: &MethodReport, problems: &[String]) -> Vec<String> {
        let all = run.findings.iter().map(bso_runs::Finding::line).chain(problems.iter().cloned());
        let mut lines: Vec<String> = all.flat_map(|text| self.wrapped(&format!("! {text}"))).collect();
        if !lines.is_empty() {
            lines.insert(0, String::new());
        }
        lines
    }

    fn wrapped(&self, text: &str) -> Vec<String> {
        let mut lines = vec![String::new()];
        for word in clean(text).split_whitespace() {
            let last = lines.last_mut();
            match last {
                Some(line) if line.is_empty() => *line = word.to_owned(),
                Some(line) if line.chars().count() + 1 + word.chars().count() <= self.width => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(format!("  {word}")),
            }
        }
        lines.iter().map(|line| self.cut(line)).collect()
    }
}

fn bold(text: &str) -> String {
    format!("\u{1b}[1m{text}\u{1b}[0m")
}

fn dim(text: &str) -> String {
    format!("\u{1b}[2m{text}\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bso_runs::report::Curve;
    use bso_runs::{Finding, Symptom};

    fn data() -> ReportData {
        let curve =
            |key: &str| Curve { key: key.into(), points: (0..30).map(|i| (i, Some(i as f64))).collect() };
        let finding = Finding {
            symptom: Symptom::Clamping,
            quadrant: None,
            value: 0.5,
            threshold: 0.25,
            seen: "over all pairs half lie outside the clamp \u{1b}[31m.".into(),
            advice: "Widen it.".into(),
        };
        ReportData {
            title: "run \u{1b}[2J of somebody".into(),
            summary: "Not finished.".into(),
            methods: vec![MethodReport {
                name: "run".into(),
                curves: ["loss", "rewards/margins", "quadrant/safe_safe/bso/log_r"].map(curve).into(),
                findings: vec![finding],
                ..MethodReport::default()
            }],
            ..ReportData::default()
        }
    }

    /// Without the colours that the view itself sets.
    fn plain(line: &str) -> String {
        ["\u{1b}[1m", "\u{1b}[2m", "\u{1b}[0m"]
            .iter()
            .fold(line.to_owned(), |text, code| text.replace(code, ""))
    }

    #[test]
    fn every_size_holds_its_picture() {
        for (width, height) in [(120, 40), (80, 24), (40, 12), (20, 5), (3, 2), (1, 1)] {
            let lines = Frame { width, height, run: 0 }.lines(&data(), "q quits");
            assert!(lines.len() <= height, "{width}x{height}: {}", lines.len());
            for line in &lines {
                assert!(plain(line).chars().count() <= width, "{width}x{height}: {line:?}");
                assert!(!plain(line).contains('\u{1b}'), "{line:?}");
            }
        }
    }

    #[test]
    fn curves_quadrants_and_warnings_are_there() {
        let text = Frame { width: 120, height: 40, run: 7 }.lines(&data(), "q quits").join("\n");
        for part in
            ["loss 29.0 at step 29", "margin 29.0", "both are safe", "clamping: over all pairs", "q quits"]
        {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        let empty = Frame { width: 80, height: 24, run: 0 }.lines(&ReportData::default(), "q quits");
        assert_eq!(empty.len(), 3);
    }
}
