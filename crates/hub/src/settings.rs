//! What the environment says about the hub: the variables of `huggingface_hub`.

use std::path::PathBuf;

/// Where the hub is, where its cache is, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: String,
    /// `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, else the file that a login leaves in `HF_HOME`.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: the hub is not asked.
    pub offline: bool,
}

impl Settings {
    /// From the environment of this process.
    pub fn from_env() -> Self {
        Self::from(&|name| std::env::var(name).ok())
    }

    fn from(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let folder = |name: &str| set(name).map(PathBuf::from);
        let home = folder("HF_HOME").unwrap_or_else(|| {
            let own = folder("HOME").or_else(|| folder("USERPROFILE")).unwrap_or_default();
            folder("XDG_CACHE_HOME").unwrap_or_else(|| own.join(".cache")).join("huggingface")
        });
        let cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        let login = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN"));
        let token = token.or_else(|| std::fs::read_to_string(login).ok());
        let on = |value: String| ["1", "true", "yes", "on"].contains(&value.trim().to_lowercase().as_str());
        Self {
            endpoint: set("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_owned())
                .trim()
                .trim_end_matches('/')
                .to_owned(),
            cache: cache.unwrap_or_else(|| home.join("hub")),
            // A token is a header's value: no line end may hide in it.
            token: token
                .map(|t| t.trim().to_owned())
                .filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic())),
            offline: set("HF_HUB_OFFLINE").is_some_and(on),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Settings {
        Settings::from(&|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn variables_mean_what_they_mean_to_huggingface_hub() {
        let plain = of(&[("HOME", "/h")]);
        assert_eq!((plain.endpoint.as_str(), plain.offline), ("https://huggingface.co", false));
        assert_eq!(plain.cache, PathBuf::from("/h/.cache/huggingface/hub"));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_secret\n").unwrap();
        let home = dir.path().to_str().unwrap();
        let all = of(&[("HF_HOME", home), ("HF_ENDPOINT", "http://mirror/"), ("HF_HUB_OFFLINE", "True")]);
        assert_eq!((all.cache, all.token.as_deref()), (dir.path().join("hub"), Some("hf_secret")));
        assert_eq!((all.endpoint.as_str(), all.offline), ("http://mirror", true));
        let own =
            of(&[("HF_HOME", home), ("HF_TOKEN", "hf_own"), ("HF_HUB_CACHE", "/c"), ("HF_HUB_OFFLINE", "0")]);
        assert_eq!(
            (own.token.as_deref(), own.cache, own.offline),
            (Some("hf_own"), PathBuf::from("/c"), false)
        );
        assert_eq!(of(&[("HF_TOKEN", "a\nb")]).token, None);
    }
}
