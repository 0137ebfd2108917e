//! `bso config`: ready configs for every method, what a config resolves to, and the schema for editors.

use crate::terminal::Terminal;
use anyhow::{Context, bail};
use bso_durable::{Event, Observer, atomic_write};
use bso_recipes::config::{self, PRESETS};
use clap::{Args, Subcommand};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Arguments of `bso config`.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Write a commented, ready config for a method; without a method, list them
    Init {
        /// The method, as `bso`, `safedpo`, `dpo-helpful`, `sft`
        method: Option<String>,
        /// File to write; standard output if absent or `-`
        #[arg(short, long, value_name = "FILE", requires = "method")]
        output: Option<PathBuf>,
    },
    /// Print ours for a config of TRL, LLaMA-Factory or axolotl, with what could not be carried over as comments
    Import {
        /// Their YAML file, or `-` for standard input
        file: PathBuf,
    },
    /// Print the JSON Schema of a config, so that an editor completes and checks keys
    ///
    /// Save it and put `# yaml-language-server: $schema=FILE` at the top of a config.
    Schema,
    /// Print what a config resolves to: every key that the run would read
    Show {
        /// YAML file, or `-` for standard input
        config: PathBuf,
        /// Settings that win over the file, as `--beta 0.2 --log_ratio_clamp -20,20`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "--KEY VALUE")]
        overrides: Vec<String>,
    },
}

/// Runs `bso config`.
///
/// # Errors
/// An unknown method, an invalid config, an existing output file: wrong usage with the remedy.
pub fn run(args: ConfigArgs, terminal: &Terminal) -> anyhow::Result<()> {
    match args.command {
        ConfigCommand::Init { method: None, .. } => print(&methods()),
        ConfigCommand::Init { method: Some(method), output } => init(&method, output.as_deref(), terminal),
        ConfigCommand::Import { file } if file == Path::new("-") => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read the config from standard input")?;
            print(&config::import(&text, Path::new("standard input"))?)
        }
        ConfigCommand::Import { file } => print(&config::import_file(&file)?),
        ConfigCommand::Schema => print(&format!("{:#}\n", config::schema())),
        ConfigCommand::Show { config, overrides } => show(&config, &overrides, terminal),
    }
}

fn init(method: &str, output: Option<&Path>, terminal: &Terminal) -> anyhow::Result<()> {
    let text = config::init(method)?;
    let Some(path) = output.filter(|path| *path != Path::new("-")) else {
        return print(&text);
    };
    if path.exists() {
        bail!("{} exists and is not replaced; name another file or remove it first", path.display());
    }
    atomic_write(path, |out| out.write_all(text.as_bytes()))?;
    let note = format!(
        "wrote {0}; set model_name_or_path and dataset_name in it, then run: bso train {0}",
        path.display()
    );
    terminal.event(Event::Note(note));
    Ok(())
}

fn show(path: &Path, overrides: &[String], terminal: &Terminal) -> anyhow::Result<()> {
    let overrides = config::parse_overrides(overrides)?;
    let resolved = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("cannot read the config from standard input")?;
        config::load_text(&text, "standard input", &overrides)?
    } else {
        config::load(path, &overrides)?
    };
    for notice in resolved.notices {
        terminal.event(Event::Warning(notice));
    }
    print(&resolved.config.to_yaml())
}

/// The methods, one a line.
fn methods() -> String {
    let width = PRESETS.iter().map(|preset| preset.name.len()).max().unwrap_or(0);
    let mut text = String::from("methods (bso config init METHOD [--output FILE]):\n");
    for preset in PRESETS {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:width$}  {}", preset.name, preset.doc);
    }
    text
}

fn print(text: &str) -> anyhow::Result<()> {
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::Talk;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        config: ConfigArgs,
    }

    fn run_with(words: &[&str]) -> anyhow::Result<()> {
        let words = std::iter::once("config").chain(words.iter().copied());
        run(Program::try_parse_from(words)?.config, &Terminal::new(Talk::Usual))
    }

    #[test]
    fn a_ready_config_is_written_shown_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bso.yaml");
        let path = path.to_str().unwrap();
        run_with(&["init", "bso", "--output", path]).unwrap();
        run_with(&["show", path, "--log_ratio_clamp", "-20,20", "--seed", "3"]).unwrap();
        assert!(
            run_with(&["init", "bso", "--output", path]).unwrap_err().to_string().contains("not replaced")
        );
        assert!(run_with(&["show", path, "--bta", "3"]).unwrap_err().to_string().contains("`beta`"));
    }

    #[test]
    fn every_method_is_listed_and_an_unknown_one_is_refused() {
        let list = methods();
        assert!(PRESETS.iter().all(|preset| list.contains(preset.name)));
        assert!(run_with(&["init", "safe-dpo"]).unwrap_err().to_string().contains("Did you mean `safedpo`?"));
    }
}
