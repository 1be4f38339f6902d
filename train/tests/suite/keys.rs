//! The keys of config.toml: all of them are described, and in the documentation as the program has them.

use std::collections::BTreeSet;

use ckpt_train::keys;

#[test]
fn every_key_of_the_settings_is_described_and_no_other() {
    let own: BTreeSet<String> = keys::all().into_iter().map(|(name, _)| name).collect();
    let described: BTreeSet<String> = keys::KEYS.iter().map(|key| key.name.to_string()).collect();
    assert_eq!(own, described);
    assert_eq!(described.len(), keys::KEYS.len());
    assert!(own.contains("optimizer.tunnel_strength") && own.contains("data.validation_tokens"), "{own:?}");
}

#[test]
fn a_written_config_has_only_documented_keys() {
    fn walk(table: &toml::Table, above: &str, keys: &BTreeSet<&str>) {
        for (key, value) in table {
            let name = format!("{above}{key}");
            match value {
                toml::Value::Table(inner) if !keys.contains(name.as_str()) => {
                    walk(inner, &format!("{name}."), keys)
                }
                _ => assert!(keys.contains(name.as_str()), "{name}"),
            }
        }
    }
    let keys: BTreeSet<&str> = keys::KEYS.iter().map(|key| key.name).collect();
    for name in ckpt_train::optim::NAMES {
        let settings = ckpt_train::Settings::default()
            .with(|s| s.optimizer = format!("polarized-{name}").parse().unwrap());
        walk(&toml::Table::try_from(&settings).unwrap(), "", &keys);
    }
}

#[test]
fn the_documentation_has_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/train.md");
    let page = std::fs::read_to_string(path).unwrap();
    let table = keys::markdown();
    assert!(page.contains(&table), "docs/train.md lacks this table of keys:\n{table}");
}
