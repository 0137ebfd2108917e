//! `bso completions`: what a shell completes, and the manual page; both made from the arguments themselves.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;
use std::io::{self, Write};

/// Arguments of `bso completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell, as `bso completions bash > ~/.local/share/bash-completion/completions/bso`; or `man` for the manual page
    #[arg(value_name = "SHELL|man", value_parser = target)]
    target: Target,
}

#[derive(Clone, Debug)]
enum Target {
    Shell(Shell),
    Man,
}

fn target(word: &str) -> Result<Target, String> {
    if word == "man" {
        return Ok(Target::Man);
    }
    Shell::from_str(word, true).map(Target::Shell).map_err(|_| {
        let shells: Vec<_> = Shell::value_variants().iter().map(ToString::to_string).collect();
        format!("one of {} or man", shells.join(", "))
    })
}

/// Runs `bso completions`.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut program = super::Arguments::command();
    let mut text = Vec::new();
    match args.target {
        Target::Shell(shell) => clap_complete::generate(shell, &mut program, "bso", &mut text),
        Target::Man => clap_mangen::Man::new(program).render(&mut text)?,
    }
    io::stdout().lock().write_all(&text)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn shells_and_the_manual_page_are_known_and_others_refused_with_the_list() {
        assert!(target("bash").is_ok() && target("man").is_ok());
        assert!(target("tcsh").unwrap_err().contains("zsh"));
    }
}
