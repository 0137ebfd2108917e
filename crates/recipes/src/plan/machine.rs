//! What the system says of its memory. Linux only; elsewhere nothing is known.

use std::fs;

/// Bytes that can still be taken without swapping: what the kernel estimates, or less where a control group limits
/// the process.
pub fn available_memory() -> Option<u64> {
    let machine = kibibytes("/proc/meminfo", "MemAvailable:");
    let number =
        |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u64>().ok();
    let group =
        number("memory.max").zip(number("memory.current")).map(|(max, used)| max.saturating_sub(used));
    machine.into_iter().chain(group).min()
}

/// Bytes of this process that are in memory now.
pub(super) fn resident_memory() -> Option<u64> {
    kibibytes("/proc/self/status", "VmRSS:")
}

fn kibibytes(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|k| k * 1024)
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_tells_what_is_free_and_what_this_process_takes() {
        let (free, own) = (super::available_memory(), super::resident_memory());
        assert!(free.is_some_and(|bytes| bytes > 1 << 20), "{free:?}");
        assert!(own.is_some_and(|bytes| bytes > 1 << 16), "{own:?}");
    }
}
