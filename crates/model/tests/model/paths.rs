//! Everything here again on the instruction paths that this processor would not choose, each forced as a user would.

use bso_model::CpuPath;
use std::process::Command;

#[test]
fn every_instruction_path_passes_all_other_tests() {
    let chosen = CpuPath::detect().unwrap();
    if std::env::var_os("BSO_CPU").is_some() {
        println!("skipped: BSO_CPU already forces {}", chosen.name());
        return;
    }
    for path in CpuPath::EVERY.into_iter().filter(|path| path.is_available() && *path != chosen) {
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--skip", "paths::"])
            .env("BSO_CPU", path.name())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "BSO_CPU={}:\n{text}", path.name());
        println!("{}: {}", path.name(), text.lines().last().unwrap_or_default());
    }
}
