//! A model or data set as it is named: a path, or a name on the hub. A local path always wins.

use super::value::quoted;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The absolute path that `value` stands for; a hub's `org/name` or `org/name@revision` stays as it is written where no
/// such path exists.
pub(crate) fn place(value: &Value, base: &Path) -> Option<PathBuf> {
    let text = value.as_str().filter(|text| !text.is_empty())?;
    // Without a base the text is to be written again, and `./` says that it is no name.
    let plain = text.strip_prefix("./").filter(|_| !base.as_os_str().is_empty());
    let local = base.join(plain.unwrap_or(text));
    let is_name = bso_hub::Name::parse(text).is_some();
    Some(if is_name && !local.exists() { PathBuf::from(text) } else { local })
}

/// The path or name as YAML.
pub(super) fn named(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}
