//! The files in which the clouds' programs keep credentials, and the machines that have some of their own.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::Settings;

/// What the files of AWS's programs say of the profile in use, under the names of environment variables:
/// <https://docs.aws.amazon.com/cli/v1/userguide/cli-configure-files.html>.
pub(crate) fn aws(settings: &Settings) -> HashMap<String, String> {
    const KEYS: [(&str, &str); 5] = [
        ("aws_access_key_id", "aws_access_key_id"),
        ("aws_secret_access_key", "aws_secret_access_key"),
        ("aws_session_token", "aws_session_token"),
        ("region", "aws_region"),
        ("endpoint_url", "aws_endpoint_url"),
    ];
    let file = |variable: &str, name: &str| {
        let own = settings.variable(variable).map(PathBuf::from);
        own.or_else(|| Some(settings.home.as_ref()?.join(".aws").join(name)))
    };
    let profile =
        settings.variable("AWS_PROFILE").or(settings.variable("AWS_DEFAULT_PROFILE")).unwrap_or("default");
    let mut found = HashMap::new();
    // The file of credentials has the last word.
    let files = [("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")];
    for path in files.iter().filter_map(|(variable, name)| file(variable, name)) {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let mut services = None;
        for Entry { section, within, key, value } in entries(&text) {
            let section = section.strip_prefix("profile ").unwrap_or(section).trim();
            if section != profile || within.is_some() {
                continue;
            }
            if key == "services" {
                services = Some(value);
            }
            if let Some((_, name)) = KEYS.iter().find(|(known, _)| *known == key) {
                found.insert((*name).to_string(), value.to_string());
            }
        }
        // Endpoints of single services go before that of all.
        let of_s3 = |entry: &Entry<'_>| {
            let named = entry.section.strip_prefix("services ").map(str::trim);
            services.is_some()
                && named == services
                && (entry.within, entry.key) == (Some("s3"), "endpoint_url")
        };
        if let Some(entry) = entries(&text).find(of_s3) {
            found.insert("aws_endpoint_url".to_string(), entry.value.to_string());
        }
    }
    found
}

/// An entry of an INI file. One that is indented is `within` the key before it.
struct Entry<'t> {
    section: &'t str,
    within: Option<&'t str>,
    key: &'t str,
    value: &'t str,
}

fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    let (mut section, mut last) = ("", None);
    text.lines().filter_map(move |line| {
        if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            (section, last) = (name.0.trim(), None);
            return None;
        }
        if line.trim_start().starts_with(['#', ';']) {
            return None;
        }
        let (key, value) = line.split_once('=')?;
        let (key, value) = (key.trim(), value.trim());
        let within = last.filter(|_| line.starts_with([' ', '\t']));
        if within.is_none() {
            last = Some(key);
        }
        Some(Entry { section, within, key, value })
    })
}

/// The token for the Hugging Face Hub: <https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>.
pub(crate) fn hub_token(settings: &Settings) -> Option<String> {
    if let Some(token) = settings.variable("HF_TOKEN").or(settings.variable("HUGGING_FACE_HUB_TOKEN")) {
        return Some(token.trim().to_string());
    }
    let cache = || {
        let own = settings.variable("XDG_CACHE_HOME").map(PathBuf::from);
        own.or_else(|| Some(settings.home.as_ref()?.join(".cache")))
    };
    let home =
        || settings.variable("HF_HOME").map(PathBuf::from).or_else(|| Some(cache()?.join("huggingface")));
    let path = settings.variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home()?.join("token")));
    let token = std::fs::read_to_string(path?).ok()?.trim().to_string();
    (!token.is_empty()).then_some(token)
}

/// The clouds that give their machines credentials of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Amazon,
    Google,
    Microsoft,
}

/// Whether this is a machine of `owner`, as its firmware says: only there is it asked for credentials, which anywhere else
/// takes seconds and gives none.
pub(crate) fn is_machine_of(owner: Owner) -> bool {
    let says = |file: &str, word: &str| {
        std::fs::read_to_string(format!("/sys/class/dmi/id/{file}")).is_ok_and(|text| text.contains(word))
    };
    match owner {
        Owner::Amazon => says("sys_vendor", "Amazon EC2") || says("bios_version", "amazon"),
        Owner::Google => says("product_name", "Google"),
        // The same tag on all of them.
        Owner::Microsoft => says("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)], home: &std::path::Path) -> Settings {
        let variables = variables.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Settings::new(variables, Some(home.to_path_buf()))
    }

    #[test]
    fn a_profile_of_aws_is_put_together_from_both_files() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".aws");
        std::fs::create_dir(&folder).unwrap();
        let config = "[default]\nregion = eu-west-1\n\n# other\n[profile lab]\nregion=us-west-2\nendpoint_url = http://lab:9000\ns3 =\n  region = no\n";
        std::fs::write(folder.join("config"), config).unwrap();
        let credentials = "[default]\naws_access_key_id=A\naws_secret_access_key=B=\n[lab]\naws_access_key_id = C\naws_session_token = D\n";
        std::fs::write(folder.join("credentials"), credentials).unwrap();
        let of = |variables: &[(&str, &str)]| {
            let mut found: Vec<_> = aws(&settings(variables, home.path())).into_iter().collect();
            found.sort();
            found.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), ["aws_access_key_id=A", "aws_region=eu-west-1", "aws_secret_access_key=B="]);
        let lab = [
            "aws_access_key_id=C",
            "aws_endpoint_url=http://lab:9000",
            "aws_region=us-west-2",
            "aws_session_token=D",
        ];
        assert_eq!(of(&[("AWS_PROFILE", "lab")]), lab);
        assert_eq!(of(&[("AWS_PROFILE", "none")]), [""; 0]);
        let services = "[profile lab]\nendpoint_url = http://all:1\nservices = local\n[services other]\ns3 =\n  endpoint_url = http://no:2\n[services local]\nec2 =\n  endpoint_url = http://no:3\ns3 =\n  # ours\n  addressing_style = path\n  endpoint_url = http://s3:4\n";
        std::fs::write(folder.join("services"), services).unwrap();
        let own = folder.join("services").display().to_string();
        let found = of(&[("AWS_PROFILE", "lab"), ("AWS_CONFIG_FILE", &own)]);
        assert!(found.contains(&"aws_endpoint_url=http://s3:4".to_string()), "{found:?}");
        let elsewhere = folder.join("credentials").display().to_string();
        let both = [("AWS_CONFIG_FILE", "/nowhere"), ("AWS_SHARED_CREDENTIALS_FILE", &elsewhere)];
        assert_eq!(of(&both), ["aws_access_key_id=A", "aws_secret_access_key=B="]);
    }

    #[test]
    fn the_token_of_the_hub_is_where_its_own_library_keeps_it() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(hub_token(&settings(&[], home.path())), None);
        let folder = home.path().join(".cache/huggingface");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), "hf_file\n").unwrap();
        assert_eq!(hub_token(&settings(&[], home.path())).as_deref(), Some("hf_file"));
        assert_eq!(hub_token(&settings(&[("HF_TOKEN", "hf_env")], home.path())).as_deref(), Some("hf_env"));
        assert_eq!(hub_token(&settings(&[("HF_HOME", "/nowhere")], home.path())), None);
        let own = home.path().join("own");
        std::fs::write(&own, "hf_own").unwrap();
        let path = own.display().to_string();
        assert_eq!(hub_token(&settings(&[("HF_TOKEN_PATH", &path)], home.path())).as_deref(), Some("hf_own"));
    }
}
