//! Files at URLs, with the credentials of this process's environment.

use std::collections::HashMap;

use ckpt_remote::Settings;

/// Lets this process read checkpoints at URLs (`s3://`, `gs://`, `az://`, `https://`, `hf://`), also by `ckpt-inspect`
/// itself. [`run`](crate::run) and [`capture`](crate::capture()) do this; nothing is connected to before it is asked for.
pub fn read_remote_files() {
    ckpt_inspect::stored::register(ckpt_remote::stores(|| {
        let text = |name: std::ffi::OsString| name.into_string().ok();
        let variables: HashMap<String, String> =
            std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect();
        Settings::new(variables, std::env::home_dir())
    }));
}
