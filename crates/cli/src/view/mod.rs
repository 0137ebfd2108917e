//! The terminal view of `bso watch --terminal`: drawn anew when files change, gone without a trace at the end. Where standard
//! output is no terminal, a line a logged row.

mod chart;
mod frame;

use crate::exit::Outcome;
use crate::terminal::clean;
use bso_durable::Interrupt;
use bso_recipes::report::{Look, Watched};
use bso_runs::key;
use bso_runs::report::{MethodReport, ReportData, number};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{cursor, execute, queue};
use frame::Frame;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two looks at the files.
const EVERY: Duration = Duration::from_secs(1);
/// A run that writes no row for so long may have been killed.
const LONG: Duration = Duration::from_secs(300);

/// Shows until q or Ctrl-C.
pub fn show(watched: &Watched, interrupt: &Interrupt) -> anyhow::Result<Outcome> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return follow(watched, interrupt);
    }
    let screen = Screen::enter()?;
    let outcome = draw(watched, interrupt);
    drop(screen);
    outcome
}

/// The terminal as the view needs it; as it was before when dropped.
struct Screen;

impl Screen {
    fn enter() -> anyhow::Result<Self> {
        enable_raw_mode()?;
        let screen = Self;
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no mending.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
        let _ = disable_raw_mode();
    }
}

fn draw(watched: &Watched, interrupt: &Interrupt) -> anyhow::Result<Outcome> {
    let (mut shown, mut run, mut looked): (Option<(u64, ReportData)>, usize, Option<Instant>) =
        (None, 0, None);
    loop {
        if looked.is_none_or(|looked| looked.elapsed() >= EVERY) {
            looked = Some(Instant::now());
            let look = watched.look();
            if shown.as_ref().is_none_or(|(version, _)| *version != look.version) {
                shown = Some((look.version, watched.data(&look)));
            }
            if let Some((_, data)) = &shown {
                paint(data, &footer(&look), run)?;
            }
        }
        if interrupt.is_raised() {
            return Ok(Outcome::Interrupted);
        }
        if !event::poll(Duration::from_millis(200))? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(Outcome::Done),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                    return Ok(Outcome::Interrupted);
                }
                KeyCode::Tab | KeyCode::Right | KeyCode::Down => (run, looked) = (run.wrapping_add(1), None),
                _ => {}
            },
            Event::Resize(..) => looked = None,
            _ => {}
        }
    }
}

fn footer(look: &Look) -> String {
    let age = look.says();
    format!("{age} · q quits · Tab shows the next run")
}

fn paint(data: &ReportData, footer: &str, run: usize) -> anyhow::Result<()> {
    let (width, height) = size()?;
    let lines = Frame { width: width.into(), height: height.into(), run }.lines(data, footer);
    let mut out = io::stdout().lock();
    for (row, line) in
        (0u16..).zip(lines.iter().map(String::as_str).chain(std::iter::repeat(""))).take(height.into())
    {
        queue!(out, cursor::MoveTo(0, row))?;
        write!(out, "{line}\u{1b}[K")?;
    }
    out.flush()?;
    Ok(())
}

/// A line a logged row, until every run has ended.
fn follow(watched: &Watched, interrupt: &Interrupt) -> anyhow::Result<Outcome> {
    let mut out = io::stdout().lock();
    let (mut version, mut told, mut warned) = (None, BTreeMap::new(), false);
    loop {
        let look = watched.look();
        let is_new = version != Some(look.version);
        if is_new {
            let data = watched.data(&look);
            if version.is_none() {
                writeln!(out, "{}: {}", clean(&data.title), clean(&data.summary))?;
            }
            for method in &data.methods {
                rows(&mut out, method, &mut told)?;
            }
            version = Some(look.version);
        }
        if look.is_over() {
            let data = watched.data(&look);
            writeln!(out, "{}", clean(&data.summary))?;
            for finding in data.methods.iter().flat_map(|m| &m.findings) {
                writeln!(out, "warning: {}", clean(&finding.line()))?;
            }
            return Ok(Outcome::Done);
        }
        let silent = look.unchanged_for.is_some_and(|age| age >= LONG);
        if silent && !warned {
            writeln!(out, "{}; the run may have been killed", look.says())?;
        }
        warned = silent;
        out.flush()?;
        let until = Instant::now() + EVERY;
        while Instant::now() < until {
            if interrupt.is_raised() {
                return Ok(Outcome::Interrupted);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The rows of a run after the last step told.
fn rows(out: &mut dyn Write, method: &MethodReport, told: &mut BTreeMap<String, u64>) -> io::Result<()> {
    const SHOWN: [(&str, &str); 5] = [
        (key::LOSS, "loss"),
        (key::REWARDS_MARGINS, "margin"),
        (key::REWARDS_ACCURACIES, "accuracy"),
        (key::LOG_R, "log R"),
        ("eval_loss", "held-out loss"),
    ];
    let mut found: BTreeMap<u64, String> = BTreeMap::new();
    for (key, title) in SHOWN {
        for (step, value) in method.curves.iter().filter(|c| c.key == key).flat_map(|c| &c.points) {
            let text = value.map_or("-".to_owned(), number);
            found.entry(*step).or_default().push_str(&format!("  {title} {text}"));
        }
    }
    let after = told.get(&method.name).copied();
    for (step, figures) in found.range(after.map_or(0, |step| step + 1)..) {
        writeln!(out, "{} step {step}{figures}", clean(&method.name))?;
        told.insert(method.name.clone(), *step);
    }
    Ok(())
}
