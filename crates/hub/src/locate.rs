//! THE place that decides what a model or data set name means: a local path, a folder of the cache, or a download.

use crate::cache::RepoCache;
use crate::download::{Client, Wanted};
use crate::error::HubError;
use crate::name::{Name, RepoKind};
use crate::repo::{Listing, RemoteFile};
use crate::settings::Settings;
use bso_durable::{Event, Observer, Task};
use std::path::{Path, PathBuf};

/// The longest list of files that is read, in bytes.
const MAX_LISTING: u64 = 64 << 20;

/// Says which of a repository's usable files are needed, or why none of them will do. It is given their paths in the
/// repository, and is asked again with the same list whenever the repository is looked up.
pub type Selection<'a> = &'a dyn Fn(Vec<PathBuf>) -> Result<Vec<PathBuf>, String>;

/// Every usable file.
///
/// # Errors
/// Never.
pub fn everything(files: Vec<PathBuf>) -> Result<Vec<PathBuf>, String> {
    Ok(files)
}

/// The local path of `named`: itself where it exists or cannot be a name on the hub, else the folder of the cache that
/// holds the selected files of the repository, fetched if need be. Reads the environment ([`Settings`]).
///
/// # Errors
/// The repository is neither here nor to be had: what was looked for, where, and the remedy.
pub fn locate(
    named: &Path,
    kind: RepoKind,
    selection: Selection<'_>,
    observer: &dyn Observer,
) -> Result<PathBuf, HubError> {
    if named.exists() {
        return Ok(named.to_owned());
    }
    match named.to_str().and_then(Name::parse) {
        Some(name) => Hub::new(Settings::from_env()).obtain(&name, kind, selection, observer),
        None => Ok(named.to_owned()),
    }
}

/// A hub with its cache.
pub struct Hub {
    settings: Settings,
    client: Client,
}

impl Hub {
    /// The hub that `settings` name. Nothing is asked yet.
    pub fn new(settings: Settings) -> Self {
        let client = Client::new(&settings);
        Self { settings, client }
    }

    /// The folder that holds the selected files of `name`, and perhaps others that were fetched before; brought up to date
    /// where the hub can be asked.
    ///
    /// # Errors
    /// As [`locate`].
    pub fn obtain(
        &self,
        name: &Name,
        kind: RepoKind,
        selection: Selection<'_>,
        observer: &dyn Observer,
    ) -> Result<PathBuf, HubError> {
        let cache = RepoCache::new(&self.settings.cache, kind, name);
        let what = format!("{} {name}", kind.word());
        if self.settings.offline {
            return cached(&cache, name, &what, selection)?
                .ok_or_else(|| HubError::Offline { what, cache: cache.root.clone() });
        }
        let endpoint = &self.settings.endpoint;
        let revision = name.revision.replace('/', "%2F");
        let url = format!("{endpoint}/api/{}/{}/revision/{revision}?blobs=true", kind.plural(), name.repo);
        let listing = match self.listing(&url, &what) {
            Ok(listing) => listing,
            Err(Trouble::Answered(error)) => return Err(error),
            Err(Trouble::Unreachable(problem)) => {
                let Some(folder) = cached(&cache, name, &what, selection)? else {
                    return Err(HubError::Unreachable { what, cache: cache.root.clone(), url, problem });
                };
                observer.event(Event::Warning(format!(
                    "{endpoint} cannot be reached ({problem}); {what} is taken from the cache, {}",
                    folder.display()
                )));
                return Ok(folder);
            }
        };
        let refuse = |problem: String| HubError::Unusable { what: what.clone(), problem };
        let usable = listing.used(kind).map_err(|problem| refuse(problem.to_owned()))?;
        let paths = || usable.iter().map(|file| PathBuf::from(&file.path)).collect::<Vec<_>>();
        let selected = selection(paths()).map_err(refuse)?;
        let wanted: Vec<_> =
            usable.iter().filter(|file| selected.iter().any(|path| path == Path::new(&file.path))).collect();
        log::info!("{what} is commit {}: {} of {} files are needed", listing.sha, wanted.len(), usable.len());
        cache.note_files(&listing.sha, &usable.iter().map(|file| file.path.as_str()).collect::<Vec<_>>())?;
        self.download(&cache, (name, kind), (&listing.sha, &wanted), observer)
    }

    fn listing(&self, url: &str, what: &str) -> Result<Listing, Trouble> {
        let mut response = self.client.get(url, 0).map_err(|e| Trouble::Unreachable(e.to_string()))?;
        let status = response.status().as_u16();
        let remedy = match status {
            200..=299 => None,
            401 | 403 => Some(
                "it does not exist, or is private or gated; check the name, accept its terms on its page and set HF_TOKEN",
            ),
            404 => Some(
                "there is no such repository or revision; check the name, or write ./ before a local folder",
            ),
            429 => Some("too many requests; wait, or set HF_TOKEN"),
            500.. => return Err(Trouble::Unreachable(format!("HTTP status {status}"))),
            _ => Some("is HF_ENDPOINT a hub?"),
        };
        if let Some(remedy) = remedy {
            let (what, url) = (what.to_owned(), url.to_owned());
            return Err(Trouble::Answered(HubError::Refused { what, url, status, remedy }));
        }
        let wrong = |problem: String| {
            Trouble::Answered(HubError::Answer { what: what.to_owned(), url: url.to_owned(), problem })
        };
        let text = response.body_mut().with_config().limit(MAX_LISTING).read_to_string();
        let text = text.map_err(|e| Trouble::Unreachable(e.to_string()))?;
        let listing: Listing = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        if listing.is_sound() {
            Ok(listing)
        } else {
            Err(wrong("it names files outside the repository".to_owned()))
        }
    }

    fn download(
        &self,
        cache: &RepoCache,
        (name, kind): (&Name, RepoKind),
        (commit, files): (&str, &[&RemoteFile]),
        observer: &dyn Observer,
    ) -> Result<PathBuf, HubError> {
        let _lock = cache.lock()?;
        let missing: Vec<_> =
            files.iter().filter(|f| !cache.snapshot(commit).join(&f.path).exists()).collect();
        if missing.is_empty()
            && cache.is_complete(commit)
            && cache.commit(&name.revision).is_some_and(|c| c == commit)
        {
            log::info!("{name} is in the cache, {}", cache.snapshot(commit).display());
            return Ok(cache.snapshot(commit));
        }
        cache.begin(commit)?;
        let sizes: Option<u64> = missing.iter().map(|f| f.size).sum();
        let mut task = Task::start(observer, format!("downloading {name}"), sizes, "bytes");
        let prefix = if kind == RepoKind::Dataset { "datasets/" } else { "" };
        for file in missing {
            let etag = file.etag(commit);
            let blob = cache.blob(&etag);
            let url = format!(
                "{}/{prefix}{}/resolve/{commit}/{}",
                self.settings.endpoint,
                name.repo,
                escaped(&file.path)
            );
            if blob.exists() {
                log::debug!("{} is in the cache", file.path);
                task.advance(file.size.unwrap_or(0), String::new);
            } else {
                log::debug!("{} is fetched from {url}", file.path);
                let partial = cache.partial(&etag);
                // What an earlier transfer left counts as done.
                task.advance(std::fs::metadata(&partial).map_or(0, |about| about.len()), String::new);
                let wanted = Wanted { url: &url, size: file.size, sha256: file.sha256() };
                self.client.fetch(&wanted, (&partial, &blob), &mut task)?;
            }
            cache.link(commit, &file.path, &etag)?;
        }
        cache.finish(&name.revision, commit)?;
        Ok(cache.snapshot(commit))
    }
}

/// Why there is no list of files.
enum Trouble {
    /// The hub said so.
    Answered(HubError),
    /// The hub did not answer, or not as a working one does.
    Unreachable(String),
}

fn cached(
    cache: &RepoCache,
    name: &Name,
    what: &str,
    selection: Selection<'_>,
) -> Result<Option<PathBuf>, HubError> {
    let incomplete = || HubError::Incomplete { what: what.to_owned(), cache: cache.root.clone() };
    let Some(commit) = cache.commit(&name.revision) else { return Ok(None) };
    let folder = cache.snapshot(&commit);
    if !cache.is_complete(&commit) {
        return Err(incomplete());
    }
    // What another program fetched has no list: it is taken as it is.
    if let Some(files) = cache.noted_files(&commit) {
        let refuse = |problem| HubError::Unusable { what: what.to_owned(), problem };
        let selected = selection(files).map_err(refuse)?;
        if selected.iter().any(|file| !folder.join(file).exists()) {
            return Err(incomplete());
        }
    }
    log::info!("{what} is in the cache, {}", folder.display());
    Ok(Some(folder))
}

/// A file's path in a URL.
fn escaped(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte))
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
