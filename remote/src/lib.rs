//! Remote files for [`ckpt_inspect`]: `s3://`, `gs://`, `az://`, `https://` and `hf://` wherever a checkpoint is expected.
//! Only the ranges are fetched that are read; nothing is written, and nothing is kept on this machine.
//!
//! ```no_run
//! let settings = || ckpt_remote::Settings::new(std::env::vars().collect(), std::env::home_dir());
//! ckpt_inspect::stored::register(ckpt_remote::stores(settings));
//! let checkpoint = ckpt_inspect::open("hf://HuggingFaceTB/SmolLM2-135M/model.safetensors")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A new kind of store is a file with a `Backend` and a line in `SCHEMES`.

#![warn(clippy::disallowed_macros, clippy::disallowed_methods)]

mod answers;
mod backend;
mod cloud;
mod folders;
mod hub;
mod names;
mod profile;
mod spans;
mod store;
mod trust;
mod web;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ckpt_inspect::stored::{Stat, Store, StoredFile};

use backend::Backend;
use store::{Proofs, Remote, locked};

/// What the user's environment says: the library itself does not read it.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Settings {
    /// Environment variables: those of the clouds' own programs (`AWS_…`, `GOOGLE_…`, `AZURE_…`), `HF_…`, `SSL_CERT_FILE`,
    /// `SSL_CERT_DIR`, and `XDG_CACHE_HOME`.
    pub variables: HashMap<String, String>,
    /// The user's home, for the files of those programs: `.aws/credentials`, `.cache/huggingface/token`.
    pub home: Option<PathBuf>,
}

/// Secrets may be among them.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("home", &self.home).finish_non_exhaustive()
    }
}

impl Settings {
    /// Those of `variables` and `home`.
    pub fn new(variables: HashMap<String, String>, home: Option<PathBuf>) -> Self {
        Settings { variables, home }
    }

    /// The variable called `name`, if it is set to anything.
    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// A kind of URL.
struct Scheme {
    /// What comes before `://`.
    names: &'static [&'static str],
    /// A location without what proves that it may be read, if it has such.
    admit: fn(&str) -> Option<String>,
    /// The part of a location that names the place which a connection is for, and the key within it.
    split: fn(&str) -> (&str, &str),
    /// Connects to such a place.
    connect: fn(&Remote, &str) -> io::Result<Arc<dyn Backend>>,
}

/// Every kind of URL that is read.
static SCHEMES: [Scheme; 3] = [hub::SCHEME, cloud::SCHEME, web::SCHEME];

/// The stores of all URLs that are read. `settings` are asked for when the first one is; until then nothing is set up.
pub fn stores(settings: impl Fn() -> Settings + Send + Sync + 'static) -> Vec<Arc<dyn Store>> {
    vec![Arc::new(Stores {
        settings: Box::new(settings),
        proofs: Proofs::default(),
        remote: Mutex::default(),
    })]
}

/// [`Remote`], once it is needed.
struct Stores {
    settings: Box<dyn Fn() -> Settings + Send + Sync>,
    proofs: Proofs,
    /// That of one process: a forked one has none of the threads that wait for answers.
    remote: Mutex<Option<(u32, Arc<Remote>)>>,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the stores of URLs")
    }
}

impl Stores {
    fn remote(&self) -> io::Result<Arc<Remote>> {
        let mut made = locked(&self.remote);
        let process = std::process::id();
        match &*made {
            Some((of, remote)) if *of == process => Ok(remote.clone()),
            _ => {
                let remote = Arc::new(Remote::new((self.settings)(), self.proofs.clone())?);
                // That of another process cannot be taken down here.
                std::mem::forget(made.replace((process, remote.clone())));
                Ok(remote)
            }
        }
    }
}

impl Store for Stores {
    fn schemes(&self) -> Vec<&'static str> {
        SCHEMES.iter().flat_map(|scheme| scheme.names).copied().collect()
    }

    fn admit(&self, location: &str) -> String {
        let name = location.split("://").next().unwrap_or_default();
        let scheme = SCHEMES.iter().find(|scheme| scheme.names.contains(&name));
        let admitted = scheme.and_then(|scheme| (scheme.admit)(location));
        // A folder is the same one without the last slash.
        let known = admitted.as_deref().unwrap_or(location);
        let start = known.find("://").map_or(0, |at| at + 3);
        let known = format!("{}{}", &known[..start], known[start..].trim_end_matches('/'));
        if admitted.is_some() {
            locked(&self.proofs).insert(known.clone(), location.to_string());
        }
        known
    }

    fn stat(&self, location: &str) -> io::Result<Stat> {
        self.remote()?.stat(&self.admit(location))
    }

    fn list(&self, location: &str) -> io::Result<Vec<(String, Stat)>> {
        self.remote()?.list(&self.admit(location))
    }

    fn left_out(&self, location: &str) -> Vec<String> {
        let location = self.admit(location);
        self.remote().map(|remote| remote.left_out(&location)).unwrap_or_default()
    }

    fn open(&self, location: &str) -> io::Result<Arc<dyn StoredFile>> {
        self.remote()?.open(&self.admit(location))
    }
}
