//! Known findings: written to a file, accepted from it, and told when they are gone.

use super::*;

/// A network of two matrices of these sizes.
fn write(path: &Path, a: f32, b: f32) {
    f32s(path, &[("a.weight", &[8, 8], values(64, a)), ("b.weight", &[8, 8], values(64, b))]);
}

const HEALTHY_SIZE: f32 = 0.3;
const WEAK: f32 = 2e-3;
const DYING: f32 = 1e-4;

#[test]
fn known_findings_pass_and_new_ones_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m.safetensors");
    let run = |args: &[&str]| gate_in(folder.path(), &[&["m.safetensors"], args].concat());
    write(&model, WEAK, HEALTHY_SIZE);
    run(&[]).exits(1);
    let written = run(&["--write-accepted", "known.json"]).exits(0);
    assert!(written.out().ends_with("1 checkpoint passed; 1 known finding accepted\n"), "{written}");
    assert_eq!(written.err(), "1 known finding written to known.json\n");
    let known = std::fs::read_to_string(folder.path().join("known.json")).unwrap();
    assert_eq!(known.lines().count(), 5, "a line a finding\n{known}");
    let mut entry = serde_json::from_str::<Value>(&known).unwrap()["accepted"][0].clone();
    let message = entry.as_object_mut().unwrap().remove("message").unwrap();
    assert!(message.as_str().unwrap().starts_with("weak: "));
    let expected = json!({
        "checkpoint": "m.safetensors", "rule": "unhealthy-tensor", "tensor": "a.weight", "verdict": "weak",
        "kinds": ["small-relative-std"],
    });
    assert_eq!(entry, expected);

    let accept = ["--accept", "known.json", "--format", "json"];
    let outcome = run(&accept).exits(0).json();
    let checked = &outcome["checkpoints"][0];
    assert_eq!((&outcome["status"], &checked["findings"]), (&json!("passed"), &json!([])));
    assert_eq!(checked["accepted"][0]["tensor"], "a.weight");
    let absolute = text(&model).to_string();
    gate_in(folder.path(), &[&absolute, "--accept", "known.json"]).exits(0);
    gate_in(folder.path(), &["./m.safetensors", "--accept", "known.json"]).exits(0);

    // Another tensor, a worse verdict, another fault of the same tensor.
    write(&model, WEAK, WEAK);
    assert_eq!(found(&run(&accept).exits(1).json(), "unhealthy-tensor"), ["b.weight"]);
    write(&model, DYING, HEALTHY_SIZE);
    assert_eq!(found(&run(&accept).exits(1).json(), "unhealthy-tensor"), ["a.weight"]);
    f32s(&model, &[("a.weight", &[8, 8], vec![f32::NAN; 64]), ("b.weight", &[8, 8], values(64, 0.3))]);
    assert_eq!(found(&run(&accept).exits(1).json(), "corrupt-tensor"), ["a.weight"]);
    std::fs::copy(&model, folder.path().join("other.safetensors")).unwrap();
    gate_in(folder.path(), &["other.safetensors", "--accept", "known.json"]).exits(1);

    // What no longer occurs is told, but not where nothing was looked for.
    write(&model, HEALTHY_SIZE, HEALTHY_SIZE);
    let gone = run(&accept).exits(0).complains(&["a.weight", "no longer found"]);
    assert_eq!(gone.json()["resolved"][0]["tensor"], "a.weight");
    write(&folder.path().join("other.safetensors"), HEALTHY_SIZE, HEALTHY_SIZE);
    let elsewhere = gate_in(folder.path(), &["other.safetensors", "--accept", "known.json"]).exits(0);
    assert_eq!(elsewhere.err(), "");
}

#[test]
fn the_file_is_stable_and_can_be_widened() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    for name in ["step-1.safetensors", "step-2.safetensors"] {
        write(&folder.path().join(name), WEAK, DYING);
    }
    let run = |args: &[&str]| gate_in(folder.path(), args);
    run(&["step-1.safetensors", "step-2.safetensors", "--write-accepted", "one.json"]).exits(0);
    run(&["step-2.safetensors", "step-1.safetensors", "--write-accepted", "two.json"]).exits(0);
    assert_eq!(read("one.json"), read("two.json"));
    // Neither replaced unasked, nor forgetful: what was accepted is written again.
    let again = ["step-1.safetensors", "step-2.safetensors", "--accept", "one.json", "--write-accepted"];
    run(&[&again[..], &["one.json"]].concat()).exits(4);
    run(&[&again[..], &["one.json", "--force"]].concat()).exits(0);
    assert_eq!(read("one.json"), read("two.json"));
    // Of one tensor a rule may find two things: dead rows and dead columns.
    let (collapsed, healthy) = (absolute(COLLAPSED), absolute(HEALTHY));
    let compare = [&collapsed[..], "--baseline", &healthy];
    run(&[&compare[..], &["--write-accepted", "worse.json"]].concat()).exits(0);
    assert_eq!(run(&[&compare[..], &["--accept", "worse.json"]].concat()).exits(0).err(), "");
    // Nor is anything gone where there is no baseline to compare with.
    assert_eq!(run(&[&collapsed, "--accept", "worse.json"]).exits(0).err(), "");
    // By hand: every step.
    let every = read("one.json").replace("step-1.safetensors", "step-*.safetensors");
    std::fs::write(folder.path().join("every.json"), every).unwrap();
    write(&folder.path().join("step-3.safetensors"), WEAK, DYING);
    run(&["step-3.safetensors", "--accept", "every.json"]).exits(0);
    run(&["step-3.safetensors", "--accept", "one.json"]).exits(1);
}

/// What could not be read, or was not judged, is not known.
#[test]
fn damage_is_never_a_known_finding() {
    let folder = tempfile::tempdir().unwrap();
    let flipped = absolute("tests/fixtures/formats/bitflip.pt");
    gate_in(folder.path(), &[&flipped, "missing.pt", "--write-accepted", "known.json"]).exits(3);
    let outcome = gate_in(folder.path(), &[&flipped, "--accept", "known.json", "--format", "json"]).exits(3);
    assert_eq!(found(&outcome.json(), "damaged-file"), [""]);
    let healthy = absolute(HEALTHY);
    gate_in(folder.path(), &[&healthy, "--ignore", "*", "--write-accepted", "none.json"]).exits(1);
    assert_eq!(
        std::fs::read_to_string(folder.path().join("none.json")).unwrap(),
        "{\n  \"accepted\": []\n}\n"
    );
    // What only a library refuses is known, word by word.
    let model = folder.path().join("m.safetensors");
    write(&model, HEALTHY_SIZE, HEALTHY_SIZE);
    let bytes = std::fs::read(&model).unwrap();
    std::fs::write(&model, [&bytes[..], &[7; 5]].concat()).unwrap();
    gate_in(folder.path(), &["m.safetensors"]).exits(3);
    gate_in(folder.path(), &["m.safetensors", "--write-accepted", "tail.json"]).exits(0);
    gate_in(folder.path(), &["m.safetensors", "--accept", "tail.json"]).exits(0);
}

#[test]
fn a_file_that_cannot_be_used_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let healthy = absolute(HEALTHY);
    for (text, why) in [
        ("{", "line 1"),
        ("{\"accepted\": [{\"checkpoint\": \"a\", \"rule\": \"no-such-rule\"}]}", "no-such-rule"),
        ("{\"accepted\": [{\"checkpoint\": \"a*[\", \"rule\": \"incomplete\"}]}", "a*["),
        ("{\"excepted\": []}", "excepted"),
    ] {
        std::fs::write(folder.path().join("known.json"), text).unwrap();
        let output = gate_in(folder.path(), &[&healthy, "--accept", "known.json"]).exits(2);
        let output = output.complains(&["known.json", why]);
        assert_eq!(output.out(), "");
    }
    gate_in(folder.path(), &[&healthy, "--accept", "missing.json"]).exits(2).complains(&["missing.json"]);
    let same = ["--write-accepted", "x.json", "-o", "x.json"];
    gate_in(folder.path(), &[&[&healthy[..]], &same[..]].concat()).exits(2);
    write(&folder.path().join("m.safetensors"), WEAK, WEAK);
    let over = ["m.safetensors", "--write-accepted", "m.safetensors", "--force"];
    gate_in(folder.path(), &over).exits(2).complains(&["is an input"]);
}
