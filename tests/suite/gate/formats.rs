//! What each report format says, read back by a parser of that format.

use std::collections::BTreeMap;

use super::*;

/// Start tags with their attributes, and texts, of well-formed XML.
fn parse_xml(text: &str) -> Vec<(String, BTreeMap<String, String>, String)> {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(text);
    reader.config_mut().check_end_names = true;
    let mut elements: Vec<(String, BTreeMap<String, String>, String)> = Vec::new();
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) | Event::Empty(tag) => {
                let attributes = tag.attributes().map(|a| {
                    let a = a.unwrap();
                    let value = quick_xml::escape::unescape(std::str::from_utf8(&a.value).unwrap())
                        .unwrap()
                        .into_owned();
                    (String::from_utf8(a.key.as_ref().to_vec()).unwrap(), value)
                });
                let name = String::from_utf8(tag.name().as_ref().to_vec()).unwrap();
                elements.push((name, attributes.collect(), String::new()));
            }
            Event::Text(text) => {
                if let Some(last) = elements.last_mut() {
                    last.2 += &text.decode().unwrap();
                }
            }
            Event::GeneralRef(entity) => {
                let entity = format!("&{};", entity.decode().unwrap());
                elements.last_mut().unwrap().2 += &quick_xml::escape::unescape(&entity).unwrap();
            }
            Event::Eof => return elements,
            _ => {}
        }
    }
}

/// An element of the schema: its name, the attributes that it must have, those that it may have, and what may be in it;
/// `#text` is text.
type Allowed = (&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

/// The rules of junit-10.xsd of Jenkins' xunit plugin.
const JUNIT_10: [Allowed; 10] = [
    ("testsuites", &[], &["name", "time", "tests", "failures", "errors"], &["testsuite"]),
    (
        "testsuite",
        &["name", "tests", "failures", "errors"],
        &["group", "time", "skipped", "timestamp", "hostname", "id", "package", "file", "log", "url"],
        &["testsuite", "properties", "testcase", "system-out", "system-err"],
    ),
    (
        "testcase",
        &["name"],
        &["time", "classname", "group"],
        &["skipped", "error", "failure", "system-out", "system-err"],
    ),
    ("failure", &[], &["type", "message"], &["#text"]),
    ("error", &[], &["type", "message"], &["#text"]),
    ("skipped", &[], &["type", "message"], &["#text"]),
    ("system-out", &[], &[], &["#text"]),
    ("system-err", &[], &[], &["#text"]),
    ("properties", &[], &[], &["property"]),
    ("property", &["name", "value"], &[], &[]),
];

/// Where `xml` breaks a rule of the schema.
fn faults_by_junit_10(xml: &str) -> Vec<String> {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(xml);
    let mut faults = Vec::new();
    let mut open: Vec<Allowed> = Vec::new();
    let mut roots = 0;
    loop {
        let event = reader.read_event().unwrap();
        let within = |name: &str| open.last().is_none_or(|(.., inside)| inside.contains(&name));
        match &event {
            Event::Start(tag) | Event::Empty(tag) => {
                let name = String::from_utf8(tag.name().as_ref().to_vec()).unwrap();
                let Some(rule) = JUNIT_10.iter().find(|(known, ..)| *known == name) else {
                    faults.push(format!("<{name}> is unknown"));
                    return faults;
                };
                let root = open.is_empty();
                roots += usize::from(root);
                if root && name != "testsuites" || !within(&name) {
                    faults.push(format!("<{name}> in {:?}", open.last().map(|o| o.0)));
                }
                let has: Vec<String> = tag
                    .attributes()
                    .map(|a| String::from_utf8(a.unwrap().key.as_ref().to_vec()).unwrap())
                    .collect();
                let (_, must, may, _) = rule;
                faults.extend(
                    must.iter()
                        .filter(|m| !has.iter().any(|h| h == *m))
                        .map(|m| format!("{name} without {m}")),
                );
                let known = |h: &&str| must.contains(h) || may.contains(h);
                let unknown = has.iter().map(String::as_str).filter(|h| !known(h));
                faults.extend(unknown.map(|h| format!("{name} with {h}")));
                if matches!(event, Event::Start(_)) {
                    open.push(*rule);
                }
            }
            Event::End(_) => {
                open.pop();
            }
            Event::Text(text) if !text.decode().unwrap().trim().is_empty() && !within("#text") => {
                faults.push(format!("text in {:?}", open.last().map(|o| o.0)));
            }
            Event::Eof => break,
            _ => {}
        }
    }
    if roots != 1 {
        faults.push(format!("{roots} roots"));
    }
    faults
}

#[test]
fn junit_follows_the_schema_that_jenkins_checks() {
    let with_unknown = "<testsuites skipped='0'><testsuite name='a'>x</testsuite><properties/></testsuites>";
    assert_eq!(faults_by_junit_10(with_unknown).len(), 6, "{:?}", faults_by_junit_10(with_unknown));
    let all = [HEALTHY, COLLAPSED, "missing.pt", "tests/fixtures/formats", "--min-step", "3000"];
    for args in [&all[..], &[HEALTHY], &["--baseline", HEALTHY, COLLAPSED]] {
        let output = gate(&[args, &["--format", "junit"]].concat());
        assert_eq!(faults_by_junit_10(output.out()), [""; 0], "{args:?}\n{output}");
    }
}

#[test]
fn junit_has_a_suite_per_checkpoint_and_a_case_per_rule() {
    let output =
        gate(&[HEALTHY, COLLAPSED, "missing.pt", "--min-step", "3000", "--format", "junit"]).exits(3);
    let elements = parse_xml(output.out());
    assert_eq!(elements[0].0, "testsuites");
    assert_eq!((&elements[0].1["failures"][..], &elements[0].1["errors"][..]), ("2", "1"));
    let suites: Vec<&String> = elements.iter().filter(|e| e.0 == "testsuite").map(|e| &e.1["name"]).collect();
    assert_eq!(suites, [HEALTHY, COLLAPSED, "missing.pt"]);
    let cases = |class: &str| -> Vec<&str> {
        elements
            .iter()
            .filter(|e| e.0 == "testcase" && e.1["classname"] == class)
            .map(|e| &e.1["name"][..])
            .collect()
    };
    assert!(cases(HEALTHY).contains(&"wrong-step") && !cases(HEALTHY).contains(&"std-shrunk"));
    assert_eq!(cases("missing.pt"), ["unreadable-file"]);
    let failure = elements.iter().find(|e| e.0 == "failure" && e.1["type"] == "unhealthy-tensor").unwrap();
    assert!(failure.1["message"].ends_with("(and 5 more)"), "{:?}", failure.1);
    assert_eq!(failure.2.trim().lines().count(), 6);
}

#[test]
fn sarif_says_where_and_describes_every_rule() {
    let output = gate(&[&absolute(COLLAPSED), HEALTHY, "missing file.pt", "--format", "sarif"]);
    let log = output.json();
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    let driver = &run["tool"]["driver"];
    assert!(driver["informationUri"].as_str().unwrap().starts_with("https://"));
    let rules = driver["rules"].as_array().unwrap();
    for rule in rules {
        // What code scanning shows of a rule, all of it required there.
        for shown in ["shortDescription", "fullDescription", "help"] {
            let text = rule[shown]["text"].as_str().unwrap();
            assert!(text.ends_with('.') && text.len() <= 1000, "{}: {shown}", rule["id"]);
        }
        assert!(rule["help"]["markdown"].is_string() && rule["name"] == rule["id"]);
        assert!(["error", "warning"].contains(&rule["defaultConfiguration"]["level"].as_str().unwrap()));
    }
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), 7, "nothing is said of what passes");
    for result in results {
        let rule = &rules[result["ruleIndex"].as_u64().unwrap() as usize];
        assert_eq!(rule["id"], result["ruleId"]);
        assert!(!rule["shortDescription"]["text"].as_str().unwrap().is_empty());
        assert_eq!(result["level"], "error");
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
    }
    let place = |i: usize| &results[i]["locations"][0];
    let uri = |i: usize| place(i)["physicalLocation"]["artifactLocation"]["uri"].as_str().unwrap();
    assert_eq!(
        (uri(0), uri(6)),
        (COLLAPSED, "missing%20file.pt"),
        "an absolute path below the folder becomes relative"
    );
    assert_eq!(
        place(0)["logicalLocations"][0]["fullyQualifiedName"],
        "model_state_dict.layers.0.mlp.gate_proj.weight"
    );
    let fingerprints: std::collections::HashSet<String> =
        results.iter().map(|r| r["partialFingerprints"].to_string()).collect();
    assert_eq!(fingerprints.len(), 7);
}

#[test]
fn github_gets_one_annotation_per_checkpoint_and_rule() {
    let output = gate(&[&absolute(COLLAPSED), HEALTHY, "a,b:c%.pt", "--format", "github"]);
    let text = output.out();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    let first = format!(
        "::error file={COLLAPSED},title=ckpt gate%3A unhealthy-tensor::model_state_dict.layers.0.mlp"
    );
    assert!(lines[0].starts_with(&first) && lines[0].matches("%0A").count() == 5, "{}", lines[0]);
    assert!(
        lines[1].starts_with("::error file=a%2Cb%3Ac%25.pt,title=ckpt gate%3A unreadable-file::"),
        "{}",
        lines[1]
    );
    assert_eq!(lines[2], "ckpt gate: 1 of 3 checkpoints refused, 1 unreadable");
}

#[test]
fn hostile_names_stay_names() {
    let names = [
        "a\n::error::injected",
        "::add-mask::x",
        "##[error]x ##vso[task.complete]",
        "100%0A::error::y,z",
        "]]><script>&\"'",
        "\u{1b}[31mred\u{1b}[0m\u{202e}\u{0}\u{7}\r\u{ffff}",
        "[link](https://example.com) {0} \\",
    ];
    let folder = tempfile::tempdir().unwrap();
    let bad = || vec![f32::NAN; 4];
    let tensors: Vec<(&str, &[usize], Vec<f32>)> = names.iter().map(|n| (*n, &[2, 2][..], bad())).collect();
    f32s(&folder.path().join("m.safetensors"), &tensors);
    let run = |format: &str| {
        gate_in(folder.path(), &["m.safetensors", "--format", format]).exits(1).out().to_string()
    };

    let github = run("github");
    assert_eq!(github.lines().count(), 2, "{github}");
    assert!(
        github.starts_with("::error file=m.safetensors,title=ckpt gate%3A corrupt-tensor::a\\u{a}::error")
    );
    assert!(github.contains("100%250A::error::y,z"));

    let human = run("human");
    assert!(!human.contains('\u{1b}') && !human.contains('\u{202e}'));
    assert!(
        !human.lines().any(|line| line.trim_start().starts_with("::")) && !human.contains("##["),
        "{human}"
    );
    assert!(!human.contains("##vso["));

    let allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    let junit = run("junit");
    assert!(junit.chars().all(allowed), "only characters that XML 1.0 has");
    let elements = parse_xml(&junit);
    let failure = elements.iter().find(|e| e.0 == "failure").unwrap();
    assert_eq!(failure.2.trim().lines().count(), names.len());
    assert!(failure.2.contains("]]><script>&\"'"), "{}", failure.2);

    let log: Value = serde_json::from_str(&run("sarif")).unwrap();
    let results = log["runs"][0]["results"].as_array().unwrap();
    for (name, result) in names.iter().zip(results) {
        assert_eq!(result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"], *name);
    }
    let text = results[6]["message"]["text"].as_str().unwrap();
    assert!(text.starts_with("\\[link\\](https://example.com) {{0}} \\\\: "), "{text}");

    let outcome: Value = serde_json::from_str(&run("json")).unwrap();
    assert_eq!(found(&outcome, "corrupt-tensor"), names);
}
