//! Signals. Ctrl-C: the first asks the work to stop at a safe point, the second exits at once. A limit on the size of files is
//! an error of the write that meets it.

use bso_durable::Interrupt;

/// Makes a write beyond `ulimit -f` fail with an error that says so, as on a full disk; left to itself the system would end the
/// program without a word.
pub fn outlive_file_size_limit() {
    #[cfg(unix)]
    {
        let seen = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        // Where the handler cannot be set, only the message is lost: files are written whole or not at all either way.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, seen);
    }
}

/// Starts listening; the flag is raised at the first Ctrl-C (or termination request).
pub fn on_ctrl_c() -> anyhow::Result<Interrupt> {
    let interrupt = Interrupt::new();
    let raised = interrupt.clone();
    ctrlc::set_handler(move || {
        if raised.raise() {
            // What is being written stays under its temporary name: nothing half-written is left in place.
            std::process::exit(130);
        }
    })?;
    Ok(interrupt)
}
