//! Arrays of Zarr whose chunks are pickles, as their metadata say: `numcodecs.Pickle` among the codecs of `.zarray`, of
//! `.zmetadata` (version 2) or of `zarr.json` (version 3).

use serde_json::{Map, Value};

use super::configuration::Named;

/// Files that have the metadata of an array, or of all arrays, and no end of a name that says so.
pub(super) const FILES: [&str; 2] = [".zarray", ".zmetadata"];
/// Where an array's metadata name codecs.
const CODECS: [&str; 6] = ["filters", "compressor", "codecs", "compressors", "serializer", "codec"];
/// What a codec is called by, and what the one that pickles is called.
const NAMES: [&str; 2] = ["id", "name"];
const PICKLING: [&str; 2] = ["pickle", "numcodecs.pickle"];

/// Whether `entries` describe an array of which reading unpickles the chunks.
pub(super) fn object(entries: &Map<String, Value>, found: &mut Vec<Named>) {
    let codecs = CODECS.iter().filter_map(|key| entries.get(*key));
    if codecs.into_iter().any(pickles) {
        found.push(Named::Beside("has Zarr unpickle the chunks of an array, which were not unpacked".into()));
    }
}

/// Whether `codecs`, one or several, are or wrap the one that pickles.
fn pickles(codecs: &Value) -> bool {
    match codecs {
        Value::Array(several) => several.iter().any(pickles),
        Value::Object(codec) => NAMES
            .iter()
            .filter_map(|key| codec.get(*key)?.as_str())
            .any(|name| PICKLING.iter().any(|pickling| name.eq_ignore_ascii_case(pickling))),
        Value::String(name) => PICKLING.contains(&name.as_str()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn codecs_that_unpickle_are_found_in_both_versions() {
        let found = |value: Value| {
            let mut found = Vec::new();
            object(value.as_object().unwrap(), &mut found);
            found.len()
        };
        assert_eq!(found(json!({"filters": [{"id": "pickle", "protocol": 5}], "compressor": null})), 1);
        assert_eq!(found(json!({"filters": null, "compressor": {"id": "pickle"}})), 1);
        assert_eq!(found(json!({"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]})), 1);
        assert_eq!(found(json!({"filters": [{"id": "vlen-utf8"}], "compressor": {"id": "blosc"}})), 0);
        assert_eq!(found(json!({"codecs": [{"name": "bytes"}, {"name": "zstd"}], "name": "pickle"})), 0);
        assert_eq!(found(json!({"filters": 64})), 0);
    }
}
