//! How much a command says beside its results: `--quiet`, `-v`, `-vv`, and `RUST_LOG` for what the libraries log.

use crate::terminal::{Talk, Terminal};
use clap::{ArgAction, Args};
use env_filter::Filter;
use log::{LevelFilter, Log, Metadata, Record};

/// What every command takes.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Verbosity {
    /// Print errors only; results on standard output stay
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Say what is done: files, caches, threads, memory, the time of each phase; -vv says every detail. The environment
    /// variable RUST_LOG chooses by module, as in RUST_LOG=bso_hub=debug
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

impl Verbosity {
    /// Takes the flags out of `words`, which stand after a configuration file and are its settings otherwise.
    pub fn take(&mut self, words: &mut Vec<String>) {
        words.retain(|word| {
            match word.as_str() {
                "-q" | "--quiet" => self.quiet = true,
                "-v" | "--verbose" => self.verbose = self.verbose.saturating_add(1),
                "-vv" => self.verbose = self.verbose.saturating_add(2),
                _ => return true,
            }
            false
        });
    }

    /// The terminal that talks so much; what the libraries log goes to it from now on.
    pub fn start(self) -> Terminal {
        let terminal = Terminal::new(match (self.quiet, self.verbose) {
            (true, _) => Talk::Quiet,
            (false, 0) => Talk::Usual,
            (false, _) => Talk::Timed,
        });
        let filter = self.filter(std::env::var("RUST_LOG").ok());
        let most = filter.filter();
        if most > LevelFilter::Off
            && log::set_boxed_logger(Box::new(Logged { filter, terminal: terminal.clone() })).is_ok()
        {
            log::set_max_level(most);
        }
        terminal
    }

    /// The flags win over the environment, as the command line does everywhere.
    fn filter(self, from_environment: Option<String>) -> Filter {
        let mut builder = env_filter::Builder::new();
        match (self.quiet, self.verbose) {
            (true, _) => builder.filter_level(LevelFilter::Off),
            // The libraries of others only speak where they deal with others: the hub's client.
            (false, 1) => builder.parse("bso=info"),
            (false, 2..) => builder.parse("bso=trace,ureq=debug"),
            (false, 0) => builder.parse(from_environment.as_deref().unwrap_or("off")),
        };
        builder.build()
    }
}

/// What libraries log, on the terminal.
struct Logged {
    filter: Filter,
    terminal: Terminal,
}

impl Log for Logged {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.filter.matches(record) {
            let (level, target) = (record.level().as_str().to_lowercase(), record.target());
            let module = target.split("::").next().unwrap_or(target);
            self.terminal.line(&format!("[{level} {module}] {}", record.args()));
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    fn of(quiet: bool, verbose: u8, environment: Option<&str>) -> [bool; 4] {
        let filter = Verbosity { quiet, verbose }.filter(environment.map(str::to_owned));
        [
            ("bso_hub::locate", Level::Info),
            ("bso_hub::locate", Level::Debug),
            ("ureq::run", Level::Debug),
            ("rustls", Level::Warn),
        ]
        .map(|(target, level)| filter.enabled(&Metadata::builder().target(target).level(level).build()))
    }

    #[test]
    fn flags_win_over_the_environment() {
        assert_eq!(of(false, 0, None), [false; 4]);
        assert_eq!(of(false, 0, Some("bso_hub=debug")), [true, true, false, false]);
        assert_eq!(of(false, 0, Some("warn")), [false, false, false, true]);
        assert_eq!(of(false, 1, Some("warn")), [true, false, false, false]);
        assert_eq!(of(false, 2, None), [true, true, true, false]);
        assert_eq!(of(true, 0, Some("trace")), [false; 4]);
    }

    #[test]
    fn flags_after_the_configuration_are_no_settings() {
        let mut words: Vec<String> = ["--beta", "0.1", "-vv", "--quiet"].map(str::to_owned).into();
        let mut verbosity = Verbosity::default();
        verbosity.take(&mut words);
        assert_eq!((words.join(" "), verbosity.quiet, verbosity.verbose), ("--beta 0.1".into(), true, 2));
    }
}
