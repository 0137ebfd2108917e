//! Ctrl-C: the first asks the work to stop at a safe point, the second exits at once.

use bso_durable::Interrupt;

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
