//! `bso watch DIR...`: the page of `bso report` served while a run goes on, or a view in the terminal.

use crate::exit::Outcome;
use crate::signal;
use crate::terminal::{Terminal, clean};
use crate::view;
use anyhow::Context;
use bso_durable::{Event, Observer};
use bso_recipes::report::{Watched, serve};
use clap::Args;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;

/// What `bso watch` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "DIR is what `bso report` takes, and need not exist yet. Files are only read. The page asks every two seconds \
                  whether they changed. Ctrl-C ends it (130); in the terminal view q does too (0)."
)]
pub struct WatchArgs {
    /// Folders to watch
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,
    /// Port of the page; 0 takes a free one
    #[arg(long, default_value_t = 8765)]
    port: u16,
    /// Address of the page; the default is reached from this machine alone
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Curves, quadrants and warnings in the terminal instead; lines where standard output is none
    #[arg(long, conflicts_with_all = ["port", "host"])]
    terminal: bool,
}

/// Serves or shows until the user has seen enough.
pub fn run(args: &WatchArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    if let Some(file) = args.dirs.iter().find(|dir| dir.exists() && !dir.is_dir()) {
        anyhow::bail!("{} is no folder; give the run's output_dir", file.display());
    }
    let interrupt = signal::on_ctrl_c()?;
    let watched = Watched::new(args.dirs.clone());
    if args.terminal {
        return view::show(&watched, &interrupt);
    }
    let listener = TcpListener::bind((args.host, args.port)).with_context(|| {
        format!("cannot listen on {}:{}; choose another --port (0 takes a free one)", args.host, args.port)
    })?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        terminal.event(Event::Warning(format!(
            "everyone who reaches {address} can read this page, samples included; without --host it is this machine alone"
        )));
    }
    writeln!(anstream::stdout(), "watching {}  http://{address}/", names(&args.dirs))?;
    serve(&listener, watched, &interrupt)?;
    Ok(Outcome::Interrupted)
}

fn names(dirs: &[PathBuf]) -> String {
    clean(&dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", "))
}
