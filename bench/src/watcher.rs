//! A process that looks at the GPU's memory while sides run: `side/watch.rs`.

use anyhow::{Context, ensure};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::side::{self, watch};

/// It ends with this value.
#[derive(Debug)]
pub struct Watcher {
    child: Child,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Watcher {
    /// Of a GPU.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(device: &str) -> anyhow::Result<Self> {
        let settings = json!(watch::Settings { device: device.to_owned() }).to_string();
        let mut child = Command::new(std::env::current_exe().context("where this program lies is unknown")?)
            .args([side::COMMAND, "watch", &settings])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let asks = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("no pipe from the watcher")?);
        let mut watcher = Self { child, asks, answers };
        // An answer shows that it watches.
        watcher.begin()?;
        watcher.end()?;
        Ok(watcher)
    }

    /// From now on.
    ///
    /// # Errors
    /// It has gone.
    pub fn begin(&mut self) -> anyhow::Result<()> {
        self.ask("begin")
    }

    /// The most that was in use beyond what was at the beginning, MiB.
    ///
    /// # Errors
    /// It has gone.
    pub fn end(&mut self) -> anyhow::Result<f64> {
        self.ask("end")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "nobody watches the GPU's memory any more: what it said is above");
        Ok(line.trim().parse()?)
    }

    fn ask(&mut self, what: &str) -> anyhow::Result<()> {
        let pipe = self.asks.as_mut().context("no pipe to the watcher")?;
        writeln!(pipe, "{what}").context("nobody watches the GPU's memory: what was said is above")
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // The end of its input is the end of it.
        self.asks = None;
        let _ = self.child.wait();
    }
}
